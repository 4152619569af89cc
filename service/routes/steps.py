"""The steps of an inference, as its trace shows them."""

from collections.abc import Sequence
from typing import NamedTuple

from service.batching.entry import Ran
from service.runtime.model import LoadedModel
from service.tracing import record, traced


class Moments(NamedTuple):
    """Of one request, in nanoseconds of one clock."""

    came: int
    ready: int
    """Its images wait to be run."""
    done: int
    """They were."""
    answered: int


def record_steps(model: LoadedModel, statistics: bool, at: Moments, runs: Sequence[Ran]) -> None:
    """Reading, waiting, each run that images of the request were in, and writing; nothing if it is not traced."""
    if not traced():
        return
    manifest = model.manifest
    record("decode", at.came, at.ready, model=manifest.name, version=manifest.version)
    for queue_ns, infer_ns, batch in sorted({(run.queue_ns, run.infer_ns, run.batch) for run in runs}):
        begun = at.ready + queue_ns
        record("queue", at.ready, begun, model=manifest.name, version=manifest.version)
        record(
            "compute",
            begun,
            begun + infer_ns,
            model=manifest.name,
            version=manifest.version,
            provider=model.provider,
            batch=batch,
            statistics=statistics,
        )
    record("respond", at.done, at.answered, model=manifest.name, version=manifest.version)
