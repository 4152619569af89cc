"""The one way to the models: who waits, who runs next, together with whom, and where."""

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from service.batching.entry import Entry, Inference, Ran
from service.batching.execution import call, execute
from service.batching.places import Threads, Turns
from service.batching.plan import ALONE, Batching, Plan, plan, unmeasured
from service.batching.queue import Queue
from service.batching.terms import Terms
from service.errors import EndingError, ServiceError
from service.runtime.model import LoadedModel
from service.runtime.observation import Observer
from service.runtime.provider import CPU
from service.settings import Settings

T = TypeVar("T")
Pixels = NDArray[np.float32]

ANY = Terms()
FIRST = Terms(priority=1)
# What the event loop may be kept from all else at once; of other work more may come between two runs.
SHORT_RUN_SECONDS = 0.005
SHORT_WORK_SECONDS = 0.001
# A few times what handing work to another thread costs, where that has a core of its own.
HOP_SECONDS = 0.0003
# A device makes one run after another; with a second one at hand it does not wait for the answers of the first.
DEVICE_RUNS = 2
# How often the end of the service looks whether all is done.
DRAIN_TICK = 0.005


class Scheduler:
    """Lets inferences and other work wait for their turn. Belongs to one event loop.

    What waits goes by `Terms.due`. Short runs are carried out on the event loop's thread, one a turn; others, `runs` at
    a time, in threads beside it, as is decoding. What is idle begins at once; while it is busy, images that may share a
    run gather: those of one model, of one shape, for the same session, and all watched or none.
    """

    def __init__(
        self,
        *,
        queue_images: int,
        batching: Batching = "auto",
        max_batch: int = 32,
        short_run_seconds: float = 0.0,
        short_work_seconds: float = 0.0,
        runs: int = 1,
        works: int = 1,
    ) -> None:
        self._batching = batching
        self._max_batch = max_batch
        self._short_run_seconds = short_run_seconds
        self._short_work_seconds = short_work_seconds
        self._plans: WeakKeyDictionary[LoadedModel, Plan] = WeakKeyDictionary()
        self._queues: list[Queue[Any]] = [Queue(queue_images), Queue(queue_images, runs), Queue(queue_images, works)]
        short, long, work = self._queues
        self._turns: Turns[Inference] = Turns(short, execute)
        self._threads: Threads[Inference] = Threads(long, execute, runs, "run")
        self._workers: Threads[Callable[[], Any]] = Threads(work, call, works, "work")
        self._closing = False

    @property
    def pending(self) -> int:
        """Images and calls that wait."""
        return sum(queue.images for queue in self._queues)

    def prepare(self, model: LoadedModel) -> None:
        """Measure how the model is best run: in any thread, before its first request, or else nothing is merged."""
        self._plans[model] = plan(model, self._batching, self._max_batch, self._short_run_seconds)

    async def infer(
        self,
        model: LoadedModel,
        tensor: Pixels,
        outputs: Sequence[str],
        terms: Terms = ANY,
        observer: Observer | None = None,
    ) -> Ran:
        """Run a model on images N×C×H×W of one request, in as many runs as they need.

        Raises `QueueFullError`, `DeadlineError`, `ClientLeftError`, `EndingError`, or what the model raises.
        """
        plan = self._plan(model)
        if len(tensor) > plan.most:
            pieces = [tensor[start : start + plan.most] for start in range(0, len(tensor), plan.most)]
            return _joined(await self.infer_each(model, pieces, outputs, terms, observer))
        entry = self._enter(plan, [Inference(model, tensor, outputs, observer)], terms)[0]
        ran: Ran = await entry.future
        return ran

    async def infer_each(
        self,
        model: LoadedModel,
        tensors: Sequence[Pixels],
        outputs: Sequence[str],
        terms: Terms = ANY,
        observer: Observer | None = None,
    ) -> list[Ran | ServiceError]:
        """Several parts of one request, of which each may fail alone; all of them wait, or none.

        Raises `QueueFullError` or `EndingError`.
        """
        if not tensors:
            return []
        inferences = [Inference(model, tensor, outputs, observer) for tensor in tensors]
        entries = self._enter(self._plan(model), inferences, terms)
        if len(entries) == 1:  # as most often, and then this takes a fraction of the time
            return [await _settled(entries[0].future)]
        results = await asyncio.gather(*(entry.future for entry in entries), return_exceptions=True)
        return [_expected(result) for result in results]

    async def work(self, seconds: float, function: Callable[[], T], terms: Terms = ANY) -> T:
        """Call a function that is expected to take so long: at once if that is short, else in a thread, in its turn.

        Raises `QueueFullError`, `DeadlineError`, `ClientLeftError`, or what the function raises.
        """
        if seconds <= self._short_work_seconds:
            return function()
        return await self._work(seconds, function, terms, bounded=True)

    async def finish(self, seconds: float, function: Callable[[], T]) -> T:
        """The same for the rest of a request that was run: it goes first and is not refused."""
        if seconds <= self._short_work_seconds:
            return function()
        return await self._work(seconds, function, FIRST, bounded=False)

    async def close(self) -> None:
        """Refuse what comes, and finish what waits."""
        self._closing = True
        while not (self._turns.idle and self._threads.idle and self._workers.idle):
            await asyncio.sleep(DRAIN_TICK)
        self._threads.close()
        self._workers.close()

    async def _work(self, seconds: float, function: Callable[[], T], terms: Terms, bounded: bool) -> T:
        loop = asyncio.get_running_loop()
        entry = Entry(function, None, 1, ALONE, seconds, terms, perf_counter_ns(), loop.create_future())
        self._workers.put(loop, [entry], bounded)
        result: T = await entry.future
        return result

    def _plan(self, model: LoadedModel) -> Plan:
        plan = self._plans.get(model)
        if plan is None:
            plan = self._plans[model] = unmeasured(model, self._max_batch)
        return plan

    def _enter(self, plan: Plan, inferences: Sequence[Inference], terms: Terms) -> list[Entry[Inference]]:
        """Let all of these wait, or none."""
        if self._closing:
            raise EndingError("the service is ending: send the request to another one")
        loop = asyncio.get_running_loop()
        came_ns = perf_counter_ns()
        entries = []
        for inference in inferences:
            model, tensor, outputs, observer = inference
            # What differs in any of these would change the results of the others, or what they cost.
            key = (model, tensor.shape[1:], tensor.dtype, plan.plain.issuperset(outputs), observer)
            seconds = plan.seconds * len(tensor)
            entries.append(Entry(inference, key, len(tensor), plan, seconds, terms, came_ns, loop.create_future()))
        if entries[0].seconds <= self._short_run_seconds:
            self._turns.put(loop, entries)
        else:
            self._threads.put(loop, entries)
        return entries


def scheduler_of(settings: Settings, provider: str, threads: int) -> Scheduler:
    """The scheduler of a process whose runs have so many threads each."""
    # With one thread to a run there is one process to a core: nothing is gained by another thread, but time is lost.
    alone = provider == CPU and threads == 1
    return Scheduler(
        queue_images=settings.queue_images,
        batching=settings.batching,
        max_batch=settings.max_batch,
        short_run_seconds=SHORT_RUN_SECONDS if alone else 0.0,
        short_work_seconds=SHORT_WORK_SECONDS if alone else HOP_SECONDS,
        runs=settings.concurrency or (1 if provider == CPU else DEVICE_RUNS),
        works=threads,
    )


async def _settled(future: asyncio.Future[Ran]) -> Ran | ServiceError:
    try:
        return await future
    except ServiceError as error:
        return error


def _expected(result: Ran | BaseException) -> Ran | ServiceError:
    if isinstance(result, Ran | ServiceError):
        return result
    raise result


def _joined(results: Sequence[Ran | ServiceError]) -> Ran:
    """The parts of one request together."""
    parts = []
    for result in results:
        if isinstance(result, ServiceError):
            raise result
        parts.append(result)
    return Ran(
        {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values},
        parts[0].queue_ns,
        sum(part.infer_ns for part in parts),
        max(part.batch for part in parts),
        sum(part.runs for part in parts),
    )
