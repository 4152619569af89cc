"""Counts what each version does, for the protocol's statistics extension."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from service.protocol.counts import BatchStatistics, Duration, InferenceStatistics, ModelStatistics
from service.runtime.model import LoadedModel

# Requests that wait to be counted, at most.
MOST_WAITING = 10_000

Key = tuple[str, int]


class Answered(NamedTuple):
    """One request that was answered; durations in nanoseconds."""

    images: int
    batches: tuple[int, ...]
    """Images in each run that is counted here, and not with another request that was in it; those of others too."""
    total: int
    input: int
    queue: int
    infer: int
    output: int
    statistics: bool = False
    """Whether it asked for any."""


# Is told of every request that is counted, by the name and the version of its model.
Listener = Callable[[str, int, Answered], None]


@dataclass(slots=True)
class _Work:
    """So many requests, and the nanoseconds of their steps."""

    count: int = 0
    input: int = 0
    infer: int = 0
    output: int = 0

    def add(self, request: Answered) -> None:
        self.count += 1
        self.input += request.input
        self.infer += request.infer
        self.output += request.output

    def computation(self) -> dict[str, Duration]:
        return {
            "compute_input": Duration(count=self.count, ns=self.input),
            "compute_infer": Duration(count=self.count, ns=self.infer),
            "compute_output": Duration(count=self.count, ns=self.output),
        }


@dataclass(slots=True)
class _Counts:
    """Of one version. Plain numbers, for they change with every request, and are seldom asked for."""

    last_inference: int = 0
    images: int = 0
    runs: int = 0
    success_ns: int = 0
    queue_ns: int = 0
    failures: int = 0
    failure_ns: int = 0
    work: _Work = field(default_factory=_Work)
    batches: dict[int, _Work] = field(default_factory=dict)

    def batch(self, images: int) -> _Work:
        if images not in self.batches:
            self.batches[images] = _Work()
        return self.batches[images]

    def statistics(self, name: str, version: int) -> ModelStatistics:
        count = self.work.count
        return ModelStatistics(
            name=name,
            version=str(version),
            last_inference=self.last_inference,
            inference_count=self.images,
            execution_count=self.runs,
            inference_stats=InferenceStatistics(
                success=Duration(count=count, ns=self.success_ns),
                fail=Duration(count=self.failures, ns=self.failure_ns),
                queue=Duration(count=count, ns=self.queue_ns),
                **self.work.computation(),
            ),
            batch_stats=[
                BatchStatistics(batch_size=images, **work.computation())
                for images, work in sorted(self.batches.items())
            ],
        )


class Tally:
    """The counts of all versions of this process. Safe to use from several threads.

    A request is written down when it is answered, and counted some time later, when there is less to do.
    """

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        self._counts: dict[Key, _Counts] = {}
        self._waiting: deque[tuple[Key, int, Answered]] = deque()
        self._lock = threading.Lock()

    def succeeded(self, model: LoadedModel, request: Answered) -> None:
        # Not the model itself, which may be let go meanwhile.
        self._waiting.append((model.key, time.time_ns() // 1_000_000, request))
        if len(self._waiting) > MOST_WAITING:
            with self._lock:
                self._settle()

    def failed(self, model: LoadedModel, ns: int) -> None:
        with self._lock:
            counts = self._of(model.key)
            counts.failures += 1
            counts.failure_ns += ns

    def of(self, model: LoadedModel) -> ModelStatistics:
        """The counts of one version as they are now."""
        with self._lock:
            self._settle()
            return self._of(model.key).statistics(model.manifest.name, model.manifest.version)

    def last_used(self, name: str, version: int) -> int:
        """When a version last answered an inference, in milliseconds since 1970; 0 for never."""
        with self._lock:
            self._settle()
            counts = self._counts.get((name, version))
            return counts.last_inference if counts else 0

    def all(self) -> list[ModelStatistics]:
        """The counts of every version that there ever was, as they are now."""
        with self._lock:
            self._settle()
            return [counts.statistics(*key) for key, counts in self._counts.items()]

    def settle(self) -> None:
        """Count what was written down until now."""
        with self._lock:
            self._settle()

    def _settle(self) -> None:
        while self._waiting:
            key, came, request = self._waiting.popleft()
            counts = self._of(key)
            counts.last_inference = came
            counts.images += request.images
            counts.runs += len(request.batches)
            counts.success_ns += request.total
            # What was no work was waiting.
            counts.queue_ns += max(0, request.total - request.input - request.infer - request.output)
            counts.work.add(request)
            if len(request.batches) == 1:
                counts.batch(request.batches[0]).add(request)
            if self._listener is not None:
                self._listener(*key, request)

    def _of(self, key: Key) -> _Counts:
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = _Counts()
        return counts
