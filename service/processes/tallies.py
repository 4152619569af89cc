"""What all workers have counted, as the supervisor knows it: the living said it last, and the dead had before."""

from collections.abc import Hashable, Iterable
from typing import Any

from service.protocol.counts import ModelStatistics
from service.protocol.sums import added


class Tallies:
    """One tally for each worker that lives, and one for all that have ended."""

    def __init__(self) -> None:
        self._living: dict[Hashable, list[ModelStatistics]] = {}
        self._ended: dict[tuple[str, str], ModelStatistics] = {}

    def say(self, worker: Hashable, counts: Iterable[dict[str, Any]]) -> None:
        """A worker says what it has counted of every version so far."""
        self._living[worker] = [ModelStatistics.model_validate(each) for each in counts]

    def end(self, worker: Hashable) -> None:
        """It says no more: what it said last stays."""
        for counts in self._living.pop(worker, ()):
            key = (counts.name, counts.version)
            self._ended[key] = added([self._ended[key], counts]) if key in self._ended else counts

    def last_used(self, name: str, version: int) -> int:
        """When any of them last answered an inference of a version, in milliseconds since 1970; 0 if none is known."""
        everything = (counts for said in (self._ended.values(), *self._living.values()) for counts in said)
        same = (each.last_inference for each in everything if (each.name, each.version) == (name, str(version)))
        return max(same, default=0)

    def others(self, worker: Hashable) -> list[ModelStatistics]:
        """Of all but one, the dead included."""
        living = (counts for other, said in self._living.items() if other is not worker for counts in said)
        return [*self._ended.values(), *living]
