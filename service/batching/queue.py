"""A bounded queue, ordered by when its entries are due, that gives out together what may share a run."""

import asyncio
import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from service.batching.entry import Entry
from service.errors import ClientLeftError, DeadlineError, QueueFullError, ServiceError

Payload = TypeVar("Payload")

# How much one run changes what is expected of the next.
MEMORY = 0.05
NEVER = math.inf


class Queue(Generic[Payload]):
    """Entries that wait, in one line for each key. Belongs to one event loop.

    Nothing is lost and nothing given out twice: an entry that was put is taken once, or else its future is done.
    """

    def __init__(self, limit: int, places: int = 1) -> None:
        self.images = 0
        """Of all entries that wait."""
        self._limit = limit
        self._places = places
        self._seconds = 0.0
        self._slowness = 1.0
        # Heaps, each of (due, number, entry).
        self._lines: dict[Hashable, list[tuple[int, int, Entry[Payload]]]] = {}
        self._numbers = itertools.count()
        self._alarm = NEVER
        self._timer: asyncio.TimerHandle | None = None

    def put(self, entries: Sequence[Entry[Payload]], bounded: bool = True) -> None:
        """Let all of these wait, or none; an empty queue takes any number. Raises `QueueFullError` where bounded."""
        images = sum(entry.images for entry in entries)
        if bounded and self.images + images > self._limit and self.images:
            self._drop_gone()
            if self.images + images > self._limit and self.images:
                raise self._full(images)
        for entry in entries:
            self.images += entry.images
            self._seconds += entry.seconds
            line = self._lines.setdefault(entry.key, [])
            heappush(line, (entry.terms.due(entry.came_ns), next(self._numbers), entry))
            if entry.terms.deadline is not None and entry.terms.deadline < self._alarm:
                self._set_alarm(entry.terms.deadline)

    def take(self) -> list[Entry[Payload]]:
        """The entry that is due first, and those behind it in its line that fit into its run; empty if none waits."""
        while self._lines:
            key = self._first()
            if first := self._pop(key):
                return [first, *self._followers(key, first)]
        return []

    def worked(self, expected: float, seconds: float) -> None:
        """Learn how long it really took."""
        self._slowness += MEMORY * (seconds / expected - self._slowness)

    def _first(self) -> Hashable:
        if len(self._lines) == 1:
            return next(iter(self._lines))
        return min(self._lines, key=lambda key: self._lines[key][0][:2])

    def _pop(self, key: Hashable) -> Entry[Payload] | None:
        """The next entry of a line, unless nobody wants it any more."""
        entry = heappop(self._lines[key])[2]
        self._left(entry)
        deadline = entry.terms.deadline
        if entry.future.done():
            return None
        if entry.terms.gone():
            entry.future.set_exception(_gone())
            return None
        if deadline is not None and deadline <= entry.future.get_loop().time():
            entry.future.set_exception(_too_late())
            return None
        return entry

    def _followers(self, key: Hashable, first: Entry[Payload]) -> Iterator[Entry[Payload]]:
        line = self._lines.get(key)
        largest = first.plan.sizes[-1]
        if line is None or first.images >= largest:
            return
        waiting = first.images + sum(entry.images for _, _, entry in line[:largest])
        room = first.plan.size(waiting) - first.images
        while line and (line[0][2].images <= room or _left_alone(line[0][2])):
            if follower := self._pop(key):
                room -= follower.images
                yield follower

    def _left(self, entry: Entry[Payload]) -> None:
        self.images -= entry.images
        self._seconds -= entry.seconds
        if not self._lines[entry.key]:
            del self._lines[entry.key]

    def _set_alarm(self, deadline: float) -> None:
        """One timer, for the first deadline: a timer for each entry would cost as much as all else."""
        if self._timer is not None:
            self._timer.cancel()
        self._alarm = deadline
        self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        # Timers may be early by less than the clock of the loop shows.
        now = max(self._alarm, asyncio.get_running_loop().time())
        self._alarm, self._timer = NEVER, None
        for entry in self._waiting():
            if entry.terms.deadline is not None and entry.terms.deadline <= now:
                self._drop(entry, _too_late())
        if deadlines := [entry.terms.deadline for entry in self._waiting() if entry.terms.deadline is not None]:
            self._set_alarm(min(deadlines))

    def _waiting(self) -> list[Entry[Payload]]:
        return [entry for line in self._lines.values() for _, _, entry in line]

    def _drop_gone(self) -> None:
        for entry in self._waiting():
            if _left_alone(entry):
                self._drop(entry, _gone())

    def _drop(self, entry: Entry[Payload], error: ServiceError) -> None:
        line = self._lines[entry.key]
        line[:] = [item for item in line if item[2] is not entry]
        heapify(line)
        self._left(entry)
        if not entry.future.done():
            entry.future.set_exception(error)

    def _full(self, images: int) -> QueueFullError:
        # When all that waits now is worked off, as long as such work took of late.
        seconds = max(1, math.ceil(self._seconds * self._slowness / self._places))
        return QueueFullError(
            f"{self.images} images wait already, and {images} more would be beyond {self._limit}: "
            f"try again in {seconds} s, or send fewer",
            seconds,
        )


def _left_alone(entry: Entry[Payload]) -> bool:
    """Whether nobody waits for it any more: it is in nobody's way."""
    return entry.future.done() or entry.terms.gone()


def _too_late() -> DeadlineError:
    return DeadlineError("the request waited until its timeout, and was not run: allow more time, or send fewer")


def _gone() -> ClientLeftError:
    return ClientLeftError("the client left before its request was run")
