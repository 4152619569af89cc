"""Where runs and other work are carried out, when they begin, and how they end."""

import asyncio
import threading
import time
from functools import partial
from typing import Any

import pytest

from service.batching.entry import Ran
from service.batching.terms import Terms
from service.errors import (
    ClientLeftError,
    DeadlineError,
    EndingError,
    QueueFullError,
)
from service.runtime.model import LoadedModel, Tensors
from tests.service import watched
from tests.service.scheduled import LOGITS, PLACES, Spied, all_of, images, run, scheduler


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return watched.load()


def test_short_runs_are_on_the_loops_thread_and_long_ones_beside_it(model: LoadedModel) -> None:
    spied = Spied(model)

    async def infer() -> str:
        spied.run_seconds = 0.04
        spied.before = lambda tensor: time.sleep(0.01 * len(tensor))
        waiting = scheduler(short=0.05)
        waiting.prepare(spied)
        spied.threads.clear()
        await waiting.infer(spied, images(1), LOGITS)
        await waiting.infer(spied, images(6), LOGITS)
        await waiting.close()
        return threading.current_thread().name

    here = run(infer)
    short, long = spied.threads
    assert short == here
    assert long.startswith("run")


def test_the_event_loop_goes_on_during_long_runs_and_work(model: LoadedModel) -> None:
    spied = Spied(model)

    async def infer() -> int:
        waiting = scheduler(short=0.0)
        waiting.prepare(spied)
        spied.before = lambda _: time.sleep(0.2)
        busy = asyncio.gather(
            waiting.infer(spied, images(1), LOGITS), waiting.work(0.2, lambda: time.sleep(0.2)), return_exceptions=True
        )
        turns = 0
        while not busy.done():
            await asyncio.sleep(0.001)
            turns += 1
        await waiting.close()
        return turns

    assert run(infer) > 20


def test_what_is_idle_begins_at_once(model: LoadedModel) -> None:
    """No timer waits for company: of a request that comes alone, the run begins in the next turn of the loop."""
    spied = Spied(model)

    async def infer() -> tuple[int, list[Ran]]:
        waiting = scheduler()
        waiting.prepare(spied)
        spied.runs.clear()
        alone = asyncio.ensure_future(waiting.infer(spied, images(1), LOGITS))
        turns = 0
        while not spied.runs:
            await asyncio.sleep(0)
            turns += 1
        rans = [await alone, *[await waiting.infer(spied, images(1), LOGITS) for _ in range(20)]]
        return turns, rans

    turns, rans = run(infer)
    assert turns <= 2
    assert min(ran.queue_ns for ran in rans) < 1_000_000
    assert spied.batches == [1] * 21


@PLACES
def test_closing_finishes_what_waits_and_lets_nobody_in(model: LoadedModel, short: float) -> None:
    spied = Spied(model)
    others = {*threading.enumerate()}

    async def infer() -> list[Any]:
        waiting = scheduler(short, batching="off")
        waiting.prepare(spied)
        spied.runs.clear()
        spied.before = lambda _: time.sleep(0.01)
        requests = [asyncio.ensure_future(waiting.infer(spied, images(1), LOGITS)) for _ in range(6)]
        work = asyncio.ensure_future(waiting.work(1.0, lambda: time.sleep(0.05)))
        await asyncio.sleep(0)
        await waiting.close()
        assert spied.batches == [1] * 6
        with pytest.raises(EndingError, match="ending"):
            await waiting.infer(spied, images(1), LOGITS)
        return await all_of(*requests, work)

    assert [type(result) for result in run(infer)] == [Ran] * 6 + [type(None)]
    mine = {*threading.enumerate()} - others
    assert not [thread for thread in mine if thread.name.startswith(("run_", "work_"))]


def test_work_is_called_here_if_it_is_short_and_in_a_thread_if_not() -> None:
    async def work() -> list[Any]:
        waiting = scheduler()
        names = [await waiting.work(seconds, lambda: threading.current_thread().name) for seconds in (0.001, 0.0011)]
        failures = await all_of(*(waiting.work(seconds, lambda: 1 // 0) for seconds in (0.0, 1.0)))
        late = Terms(deadline=asyncio.get_running_loop().time() + 0.02)
        called: list[int] = []
        blocked = waiting.work(1.0, lambda: time.sleep(0.1))
        _, too_late, left = await all_of(
            blocked,
            waiting.work(1.0, lambda: called.append(1), late),
            waiting.work(1.0, lambda: called.append(2), Terms(gone=lambda: True)),
        )
        await waiting.close()
        return [threading.current_thread().name, *names, *failures, too_late, left, called]

    here, short, long, failed_here, failed_there, too_late, left, called = run(work)
    assert short == here
    assert long.startswith("work")
    assert isinstance(failed_here, ZeroDivisionError)
    assert isinstance(failed_there, ZeroDivisionError)
    assert isinstance(too_late, DeadlineError)
    assert isinstance(left, ClientLeftError)
    assert called == []


def test_work_that_waits_is_bounded() -> None:
    async def work() -> list[Any]:
        waiting = scheduler(queue_images=2)
        results = await all_of(*(waiting.work(0.02, lambda: time.sleep(0.02)) for _ in range(5)))
        await waiting.close()
        return results

    assert [type(result) for result in run(work)] == [type(None)] * 3 + [QueueFullError] * 2


def test_what_was_run_is_written_before_others_are_read_and_never_refused() -> None:
    order: list[str] = []

    async def work() -> list[Any]:
        waiting = scheduler(queue_images=2)
        begun = (waiting.work(0.02, partial(time.sleep, 0.02)), waiting.work(1.0, partial(order.append, "read")))
        results = await all_of(*begun, *(waiting.finish(1.0, partial(order.append, "written")) for _ in range(4)))
        await waiting.close()
        return results

    assert run(work) == [None] * 6
    assert order == ["written"] * 4 + ["read"]


def test_a_request_costs_little_more_than_its_run(model: LoadedModel) -> None:
    """Side by side with the model alone, in the time that this process had; the median was 16 µs on one core."""

    class Instant(Spied):
        def run(self, *_: object) -> Tensors:
            return answer

    answer = model.run(images(1), LOGITS)
    instant, image, count = Instant(model), images(1), 400

    async def infer() -> float:
        waiting = scheduler()
        waiting.prepare(instant)
        loop, costs = asyncio.get_running_loop(), []
        for _ in range(15):
            started = time.thread_time()
            for _ in range(count):
                await waiting.infer(instant, image, LOGITS, Terms(deadline=loop.time() + 30))
            scheduled = time.thread_time() - started
            started = time.thread_time()
            for _ in range(count):
                instant.run(image, LOGITS)
            costs.append((scheduled - (time.thread_time() - started)) / count)
        return min(costs)

    assert run(infer) < 50e-6
