"""A retraining job from its beginning, or from where it was killed, to its end."""

from collections.abc import Callable
from typing import Any

import torch

from models.repository import ModelRepository
from training.loop.differences import differences
from training.retraining.config import JobConfig
from training.retraining.material import load_material
from training.retraining.outcome import Outcome
from training.retraining.remote import Remote
from training.retraining.state import JobFolder, JobState
from training.retraining.steps import STEPS, Job

Say = Callable[[str], None]
OUTDATED: Outcome = "outdated"


def retrain(
    config: JobConfig,
    folder: JobFolder,
    repository: ModelRepository,
    remote: Remote,
    device: torch.device,
    fresh: bool = False,
    found_in: int | None = None,
    say: Say = print,
) -> JobState:
    """Do what is left of the job in `folder`, or begin one; returns the state with its outcome.

    Where the job before is over, and neither images nor options nor what is served have changed since, its outcome is
    that of this one too, and nothing is done, unless `fresh`. Nor is anything begun because of a finding in the version
    `found_in` when another one is served: then the outcome is "outdated".

    Raises `BusyError` when another process is at it, `ValueError` when another job is not over, and as the steps do:
    then what was done stays done.
    """
    with folder.alone():
        state = None if fresh else folder.read()
        options = config.options()
        if state is not None and state.outcome is not None:
            _see_rollback(state, config, remote)
            if _is_the_same(state, config, repository, remote, options):
                say(f"nothing has changed since the job in {folder.path} ended: {state.outcome}")
                return state
            state = None
        if state is None:
            if found_in is not None and (default := remote.served(config.name).default) != found_in:
                say(f"version {default} is served by now, and the finding was in version {found_in}: nothing is done")
                return JobState(options, outcome=OUTDATED)
            state = folder.start(options)
        elif differing := differences(state.options, options):
            raise ValueError(
                f"{folder.path} holds a job that is not over ({'; '.join(differing)}): give the same options to go on, "
                "another --job, or --fresh to begin anew"
            )
        job = Job(config, folder, state, repository, remote, device)
        _check_material(job)
        return _finish(job, say)


def outcome_of(state: JobState) -> Outcome | None:
    """What the steps that are done make of it; None while there is more to do."""
    if "diverged" in state.done.get("train", {}):
        return "refused"
    examined, concluded = state.done.get("examine"), state.done.get("conclude")
    if examined is not None and not all(gate["passed"] for gate in examined["gates"]):
        return "refused"
    if concluded is not None:
        return "promoted" if concluded["promoted"] else "rolled_back"
    return None


def _finish(job: Job, say: Say) -> JobState:
    state = job.state
    for name, step in STEPS.items():
        if outcome_of(state) is not None:
            break
        if name not in state.done:
            say(f"step {len(state.done) + 1} of {len(STEPS)}: {name}")
            state.done[name] = step(job)
            job.folder.write(state)
    state.outcome = outcome_of(state)
    job.folder.write(state)
    return state


def _check_material(job: Job) -> None:
    """Raise `ValueError` when the images are not those that the job began with."""
    before = job.state.done.get("material")
    if before is not None and "publish" not in job.state.done and job.material.digest != before["digest"]:
        raise ValueError(
            f"the images have changed since the job in {job.folder.path} began: begin anew with --fresh, or bring them "
            "back"
        )


def _see_rollback(state: JobState, config: JobConfig, remote: Remote) -> None:
    """Of a challenger that was rolled back after its promotion say so: the same job would promote it again."""
    if state.outcome != "promoted":
        return
    champion, challenger = (state.done[step]["version"] for step in ("champion", "publish"))
    if remote.served(config.name).default == champion and challenger in remote.withheld(config.name):
        reason = f"version {challenger} was promoted, and rolled back since by somebody else; --fresh tries it again"
        state.done["conclude"], state.outcome = {"promoted": False, "reason": reason}, "rolled_back"


def _is_the_same(
    state: JobState, config: JobConfig, repository: ModelRepository, remote: Remote, options: dict[str, Any]
) -> bool:
    """Whether a job that is over asked what is asked now."""
    if differences(state.options, options):
        return False
    version = state.done["publish" if state.outcome == "promoted" else "champion"]["version"]
    if remote.served(config.name).default != version:
        return False
    manifest = repository.open(config.name, version).manifest
    material = load_material(manifest, config.new, config.old)
    same: bool = material.digest == state.done["material"]["digest"]
    return same
