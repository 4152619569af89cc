"""The steps of a job, in their order; each may be done again, and then changes nothing more.

A step reads what those before it found, and returns what those after it and the report need.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from models.manifest import TrainingRecord
from models.repository import ModelRepository
from training.data.images import DataSet
from training.outcomes import DivergedError, Failure
from training.publication.bundle import measure, restore_classifier
from training.retraining import contest, gates
from training.retraining.canary import read_traffic, watch
from training.retraining.candidate import FINGERPRINT, FROM, Candidate, make_candidate
from training.retraining.champion import Champion, network_of
from training.retraining.config import JobConfig
from training.retraining.material import Material, load_material
from training.retraining.outcome import ServiceRefusesError, ServiceUnreachableError
from training.retraining.remote import Remote, Served
from training.retraining.state import JobFolder, JobState
from training.run import Run, RunConfig

Result = dict[str, Any]


@dataclass
class Job:
    """One job and all that it works with."""

    config: JobConfig
    folder: JobFolder
    state: JobState
    repository: ModelRepository
    remote: Remote
    device: torch.device

    @cached_property
    def champion(self) -> Champion:
        return Champion.of(self.repository.open(self.config.name, self.state.done["champion"]["version"]))

    @cached_property
    def material(self) -> Material:
        config = self.config
        return load_material(self.champion.manifest, config.new, config.old)

    @cached_property
    def mixed(self) -> DataSet:
        """What is trained on, and what the challenger's baseline is measured on."""
        return self.material.mixed(self.config.replay, self.config.recipe.seed)

    @cached_property
    def run(self) -> Run:
        return Run(self.folder.run, RunConfig(self.champion.network, self.config.new, self.config.recipe))

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.folder.candidate)

    @property
    def version(self) -> int:
        """Of the challenger, once it is published."""
        version: int = self.state.done["publish"]["version"]
        return version


def choose_champion(job: Job) -> Result:
    """Find out what is served by default, and pin it: what is published from now on is served by nobody unasked.

    It also shows, before hours of training, that the service can be told things.
    """
    name, label = job.config.name, job.config.stable
    served = job.remote.served(name)
    if served.labels.get(label, served.default) != served.default:
        raise ValueError(
            f"label {label!r} is of version {served.labels[label]}, and version {served.default} is served by default: "
            "give the label to the version that is to be trained on, and load that one"
        )
    manifest = job.repository.open(name, served.default).manifest
    if manifest.digests[manifest.graph] != served.digest:
        raise ValueError(
            f"version {served.default} in {job.repository.root} is not what the service serves: give --repository the "
            "repository of the service"
        )
    network_of(manifest)  # of one that cannot be trained on nothing is changed either
    if job.config.canary in served.labels:  # with its share, of a job that was killed and is not gone on with
        job.remote.remove_label(name, job.config.canary)
    job.remote.load(name, served.default)
    job.remote.set_label(name, label, served.default)
    return {"version": served.default, "digest": served.digest}


def read_material(job: Job) -> Result:
    """Read the images, and name what determines the challenger."""
    config, material = job.config, job.material
    if material.unseen_classes:
        raise ValueError(
            f"no image of class {', '.join(material.unseen_classes[:5])} is held out: nobody could tell whether it is "
            "still known; add some, or give --old with them"
        )
    digest = material.digest
    determined = [job.state.done["champion"]["digest"], digest, config.replay, asdict(config.recipe)]
    fingerprint = hashlib.sha256(json.dumps([config.name, *determined], sort_keys=True).encode()).hexdigest()
    return {
        "digest": digest,
        "fingerprint": fingerprint,
        "training_images": len(job.mixed.training),
        "leaked": material.leaked,
        "held_out": {kind: len(images) for kind, images in material.held_out.items()},
    }


def train(job: Job) -> Result:
    """Fine-tune from the champion's weights, or go on from the newest checkpoint."""
    config = job.config
    mixed = job.mixed
    start = job.champion.classifier(mixed.training.pixels, config.run).state_dict()
    try:
        job.run.train(mixed, job.device, resume=True, start=start)
    except DivergedError as error:
        return {"diverged": str(error)}
    return {"record": json.loads(job.run.record.read_text())}


def examine(job: Job) -> Result:
    """Export the challenger, run both over all held-out images, and ask the gates."""
    config, champion, material = job.config, job.champion, job.material
    mixed = job.mixed
    preprocessing = champion.manifest.preprocessing
    stored = job.state.done["train"]["record"]
    record = TrainingRecord.model_validate({key: stored[key] for key in TrainingRecord.model_fields if key in stored})
    marks = {FINGERPRINT: job.state.done["material"]["fingerprint"], FROM: champion.manifest.version}
    record = record.model_copy(update={"options": record.options | marks})
    classifier = restore_classifier(job.run, mixed)
    try:
        parity, baseline = make_candidate(job.folder.candidate, champion, classifier, record, mixed)
    except ValueError as error:
        # It cannot even be asked.
        graphs = gates.Graphs(None, [], None, str(error))
        return _judged([], graphs, config)
    challenger = job.candidate.model
    _, before = measure(champion.model, champion.manifest, mixed)
    graphs = gates.Graphs(
        parity=parity,
        ratios=contest.run_time_ratios(champion.model, challenger, mixed.held_out.pixels, preprocessing),
        diagnosis=contest.diagnose(job.candidate.manifest, baseline, before),
    )
    answers = [
        gates.Answers(
            kind,
            images.labels,
            contest.logits(champion.model, images.pixels, preprocessing),
            contest.logits(challenger, images.pixels, preprocessing),
            mixed.class_names,
        )
        for kind, images in material.held_out.items()
    ]
    return _judged(answers, graphs, config)


def _judged(answers: list[gates.Answers], graphs: gates.Graphs, config: JobConfig) -> Result:
    return {"gates": [_finite(asdict(result)) for result in gates.judge(answers, graphs, config.bounds)]}


def _finite(value: Any) -> Any:
    """With None for what is no number: there is no JSON for that."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def publish(job: Job) -> Result:
    """Make the candidate a version, unless it is one; nobody serves it by default before it is promoted."""
    announced: list[int] = []

    def withhold(version: int) -> None:
        job.remote.withhold(job.config.name, version)
        # Somebody else's, who published at the same moment.
        for other in announced:
            job.remote.withhold(job.config.name, other, withheld=False)
        announced[:] = [version]

    return {"version": job.candidate.publish(job.repository, withhold)}


def try_out(job: Job) -> Result:
    """Have the service load the version as the canary; its share it gets while it is watched."""
    name, config = job.config.name, job.config
    try:
        job.remote.set_label(name, config.canary, job.version)
    except ServiceRefusesError as error:
        if reason := job.remote.reason(name, job.version):
            return {"label": config.canary, "reason": f"the service cannot load it: {reason}"}
        if error.status == 404:
            raise ServiceUnreachableError(
                f"the service does not see version {job.version}: bring it from {job.repository.root} to where the "
                "service reads, and run the job again"
            ) from error
        raise error
    return {"label": config.canary, "reason": ""}


def watch_canary(job: Job) -> Result:
    """Give it its share, send it traffic, and look at what the service says of it; no share outlives a failure."""
    if reason := job.state.done["canary"]["reason"]:
        return {"reason": reason}
    config, preprocessing = job.config, job.champion.manifest.preprocessing
    folder = config.watching.traffic
    # What its baseline was measured on: nothing may be found that is not the service's doing.
    pixels = read_traffic(folder, preprocessing) if folder else job.mixed.held_out.pixels
    classes = contest.logits(job.candidate.model, pixels, preprocessing).argmax(1)
    share, champion = config.watching.share, job.state.done["champion"]["version"]
    if taken := _taken_away(job, job.remote.served(config.name)):
        return {"reason": taken}
    if share:
        job.remote.set_label(config.name, config.canary, job.version, share)
    try:
        watched = watch(job.remote, config.name, job.version, champion, pixels, classes, config.watching)
    except BaseException:  # Ctrl-C and SIGTERM too
        if share:
            with contextlib.suppress(Failure):
                job.remote.set_label(config.name, config.canary, job.version)
        raise
    return asdict(watched)


def conclude(job: Job) -> Result:
    """Promote the canary, or take it away; the default is the champion's until it is the challenger's."""
    name, config = job.config.name, job.config
    reason = job.state.done["watch"]["reason"]
    served = job.remote.served(name)
    default = served.default
    champion = job.state.done["champion"]["version"]
    if not reason and default not in (champion, job.version):
        reason = f"version {default} is served by default now: somebody else changed it"
    if not reason and default == champion:
        reason = _taken_away(job, served)
    if not reason:
        job.remote.load(name, job.version)
        job.remote.set_label(name, config.stable, job.version)
    job.remote.remove_label(name, config.canary)
    return {"promoted": not reason, "reason": reason}


def _taken_away(job: Job, served: Served) -> str:
    """Why the canary is not to be promoted, where somebody took its label away; empty if nobody did."""
    label = job.config.canary
    if served.labels.get(label) == job.version:
        return ""
    return f"version {job.version} is not {label!r} any more: somebody else ended the trial"


STEPS: dict[str, Callable[[Job], Result]] = {
    "champion": choose_champion,
    "material": read_material,
    "train": train,
    "examine": examine,
    "publish": publish,
    "canary": try_out,
    "watch": watch_canary,
    "conclude": conclude,
}
