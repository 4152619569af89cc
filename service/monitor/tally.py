"""Counts what each version does, for the protocol's statistics extension."""

import threading
import time
from typing import NamedTuple

from service.protocol.counts import BatchStatistics, Computation, ModelStatistics
from service.runtime.model import LoadedModel


class Answered(NamedTuple):
    """One request that was answered; durations in nanoseconds."""

    images: int
    runs: int
    total: int
    input: int
    infer: int
    output: int


class Tally:
    """The counts of all versions of this process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], ModelStatistics] = {}
        self._lock = threading.Lock()

    def succeeded(self, model: LoadedModel, request: Answered) -> None:
        with self._lock:
            counts = self._of(model)
            counts.last_inference = time.time_ns() // 1_000_000
            counts.inference_count += request.images
            counts.execution_count += request.runs
            counts.inference_stats.success.add(request.total)
            # What was no work was waiting.
            counts.inference_stats.queue.add(max(0, request.total - request.input - request.infer - request.output))
            _add(counts.inference_stats, request)
            if request.runs == 1:
                _add(_batch(counts, request.images), request)

    def failed(self, model: LoadedModel, ns: int) -> None:
        with self._lock:
            self._of(model).inference_stats.fail.add(ns)

    def of(self, model: LoadedModel) -> ModelStatistics:
        """A copy of the counts of one version."""
        with self._lock:
            return self._of(model).model_copy(deep=True)

    def _of(self, model: LoadedModel) -> ModelStatistics:
        name, version = model.manifest.name, model.manifest.version
        if (name, version) not in self._counts:
            self._counts[name, version] = ModelStatistics(name=name, version=str(version))
        return self._counts[name, version]


def _add(computation: Computation, request: Answered) -> None:
    computation.compute_input.add(request.input)
    computation.compute_infer.add(request.infer)
    computation.compute_output.add(request.output)


def _batch(counts: ModelStatistics, images: int) -> BatchStatistics:
    for batch in counts.batch_stats:
        if batch.batch_size == images:
            return batch
    batch = BatchStatistics(batch_size=images)
    counts.batch_stats.append(batch)
    counts.batch_stats.sort(key=lambda batch: batch.batch_size)
    return batch
