"""Where what waits is carried out: on the event loop's thread, or in threads beside it."""

from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, Generic, TypeVar

from service.batching.entry import Entry
from service.batching.queue import Queue
from service.errors import ClientLeftError

Payload = TypeVar("Payload")
# Results in the order of the entries; a failure is one of them, not raised.
CarryOut = Callable[[Sequence[Entry[Payload]]], Sequence[object]]

# Of the loop between two runs: in one the answers of the first are sent, in the next what has come is read, then it is
# put into the queue. With eight callers a request takes 0.96 of the time that it does where there is one turn.
TURNS = 3


class Turns(Generic[Payload]):
    """Carries out one run at a time on the event loop's own thread, with turns of the loop between.

    A thread would cost more than a short run. Between two runs the loop sends the answers of the first, and reads what
    has come meanwhile, which may be more urgent.
    """

    def __init__(self, queue: Queue[Payload], carry_out: CarryOut[Payload]) -> None:
        self._queue = queue
        self._carry_out = carry_out
        self._awake = False

    @property
    def idle(self) -> bool:
        return not self._awake

    def put(self, loop: AbstractEventLoop, entries: Sequence[Entry[Payload]]) -> None:
        self._queue.put(entries)
        if not self._awake:
            self._awake = True
            loop.call_soon(self._run, loop)

    def _run(self, loop: AbstractEventLoop) -> None:
        try:
            if entries := self._queue.take():
                started = perf_counter()
                results = self._carry_out(entries)
                self._queue.worked(sum(entry.seconds for entry in entries), perf_counter() - started)
                deliver(entries, results)
        finally:
            self._awake = self._queue.images > 0
            if self._awake:
                loop.call_soon(self._read, loop, TURNS)

    def _read(self, loop: AbstractEventLoop, turns: int) -> None:
        """Behind the tasks of requests that came: they are in the queue when the next run is chosen."""
        if turns > 1:
            loop.call_soon(self._read, loop, turns - 1)
        else:
            loop.call_soon(self._run, loop)


class Threads(Generic[Payload]):
    """Carries out so many runs at a time, each in a thread: the event loop goes on meanwhile."""

    def __init__(self, queue: Queue[Payload], carry_out: CarryOut[Payload], count: int, name: str) -> None:
        self._queue = queue
        self._carry_out = carry_out
        self._free = self._count = count
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    @property
    def idle(self) -> bool:
        return self._free == self._count and not self._queue.images

    def put(self, loop: AbstractEventLoop, entries: Sequence[Entry[Payload]], bounded: bool = True) -> None:
        self._queue.put(entries, bounded)
        self._start(loop)

    def close(self) -> None:
        self._executor.shutdown()

    def _start(self, loop: AbstractEventLoop) -> None:
        while self._free and (entries := self._queue.take()):
            self._free -= 1
            self._executor.submit(self._work, loop, entries)

    def _work(self, loop: AbstractEventLoop, entries: Sequence[Entry[Payload]]) -> None:
        started = perf_counter()
        results = self._carry_out(entries)
        loop.call_soon_threadsafe(self._finish, loop, entries, results, perf_counter() - started)

    def _finish(
        self, loop: AbstractEventLoop, entries: Sequence[Entry[Payload]], results: Sequence[object], seconds: float
    ) -> None:
        self._free += 1
        self._queue.worked(sum(entry.seconds for entry in entries), seconds)
        self._start(loop)  # before the answers are written, which takes longer
        deliver(entries, results)


def deliver(entries: Sequence[Entry[Any]], results: Sequence[object]) -> None:
    """Give each its result, but none to those who have left meanwhile."""
    for entry, result in zip(entries, results, strict=True):
        if entry.future.done():
            continue
        if entry.terms.gone():
            entry.future.set_exception(ClientLeftError("the client left while its request was run"))
        elif isinstance(result, Exception):
            entry.future.set_exception(result)
        else:
            entry.future.set_result(result)
