"""Requests that wait: who is next, who is too late, who has left."""

import asyncio
import contextlib
import socket
import threading
import time
from typing import Any

import numpy as np
import pytest

from service.batching.entry import Ran
from service.batching.terms import Terms
from service.errors import (
    ClientLeftError,
    DeadlineError,
    QueueFullError,
)
from service.runtime.model import LoadedModel
from tests.service import watched
from tests.service.scheduled import BOUND, LOGITS, PLACES, Spied, all_of, images, run, scheduler


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return watched.load()


@PLACES
def test_it_is_the_turn_of_the_most_urgent_and_then_of_the_first(model: LoadedModel, short: float) -> None:
    spied, order = Spied(model), []

    async def infer() -> None:
        waiting = scheduler(short, batching="off")
        waiting.prepare(spied)

        async def ask(name: str, priority: int) -> None:
            await waiting.infer(spied, images(1), LOGITS, Terms(priority))
            order.append(name)

        names = [("a", 0), ("b", 9), ("c", 1), ("d", 0), ("e", 1), ("f", 5), ("g", 2)]
        await all_of(*(ask(name, priority) for name, priority in names))
        await waiting.close()

    run(infer)
    # In threads the first began when it was alone.
    assert "".join(order) == ("cegadfb" if short else "acegdfb")


def test_what_comes_during_a_run_is_considered_before_the_next(model: LoadedModel) -> None:
    """Requests that come over sockets while the loop's thread runs a model, the last of them the most urgent."""
    spied, order = Spied(model), []
    waiting = scheduler(batching="off")
    waiting.prepare(spied)
    spied.before = lambda _: time.sleep(0.15)
    accepted = threading.Semaphore(0)

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport
            accepted.release()

        def data_received(self, data: bytes) -> None:
            self.task = asyncio.ensure_future(self.answer(int(data)))  # as uvicorn does

        async def answer(self, priority: int) -> None:
            await waiting.infer(spied, images(1), LOGITS, Terms(priority))
            order.append(priority)
            self.transport.close()

    def ask(port: int) -> None:
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(6)]
            for _ in connections:
                accepted.acquire()
            for priority, connection in zip("555551", connections, strict=True):
                connection.sendall(priority.encode())
                time.sleep(0.01)
            for connection in connections:
                connection.recv(1)

    async def infer() -> None:
        server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
        async with server:
            await asyncio.to_thread(ask, server.sockets[0].getsockname()[1])
        await waiting.close()

    run(infer)
    assert order == [5, 1, 5, 5, 5, 5]


@PLACES
def test_a_deadline_in_the_queue_is_an_error_in_time_and_no_run(model: LoadedModel, short: float) -> None:
    spied = Spied(model)

    async def infer() -> tuple[list[Any], float]:
        loop = asyncio.get_running_loop()
        waiting = scheduler(short, batching="off")
        waiting.prepare(spied)
        spied.runs.clear()
        spied.before = lambda _: time.sleep(0.4)
        started = loop.time()
        late = started + 0.05

        async def timed(deadline: float | None) -> tuple[Any, float]:
            try:
                return await waiting.infer(spied, images(1), LOGITS, Terms(deadline=deadline)), loop.time() - started
            except DeadlineError as error:
                return error, loop.time() - started

        results = await asyncio.gather(timed(None), timed(late), timed(started + 30), timed(late + 0.02))
        assert waiting.pending == 0
        await waiting.close()
        return [type(result) for result, _ in results], max(results[1][1], results[3][1])

    kinds, seconds = run(infer)
    assert kinds == [Ran, DeadlineError, Ran, DeadlineError]
    assert spied.batches == [1, 1]
    # On the loop's own thread the error waits for the end of the run, which is short.
    assert seconds < (0.75 if short else 0.35)


@PLACES
def test_whoever_leaves_the_queue_is_never_computed_and_disturbs_nobody(model: LoadedModel, short: float) -> None:
    spied, left = Spied(model), set[int]()

    async def infer() -> list[Any]:
        waiting = scheduler(short, batching="off")
        waiting.prepare(spied)
        spied.runs.clear()
        requests = [
            asyncio.ensure_future(
                waiting.infer(spied, images(1, seed), LOGITS, Terms(gone=lambda seed=seed: seed in left))
            )
            for seed in range(5)
        ]
        await asyncio.sleep(0)
        left.update((2, 3))
        requests[4].cancel()
        results = await all_of(*requests)
        await waiting.close()
        return results

    results = run(infer)
    kinds = [type(result) for result in results]
    assert kinds == [Ran, Ran, ClientLeftError, ClientLeftError, asyncio.CancelledError]
    assert spied.batches == [1, 1]


@PLACES
def test_whoever_leaves_during_the_run_gets_nothing_and_the_others_theirs(model: LoadedModel, short: float) -> None:
    spied, left = Spied(model), set[int]()
    spied.before = lambda _: left.add(1)

    async def infer() -> list[Any]:
        waiting = scheduler(short)
        waiting.prepare(spied)
        left.clear()
        results = await all_of(
            *(
                waiting.infer(spied, images(1, seed), LOGITS, Terms(gone=lambda seed=seed: seed in left))
                for seed in range(4)
            )
        )
        await waiting.close()
        return results

    results = run(infer)
    expected = [Ran, ClientLeftError, Ran, Ran]
    assert [type(result) for result in results] == expected
    for seed in (0, 2, 3):
        np.testing.assert_allclose(
            results[seed].values["logits"], model.run(images(1, seed), LOGITS)["logits"], rtol=BOUND, atol=BOUND
        )


def test_those_who_left_make_room(model: LoadedModel) -> None:
    left = False

    async def infer() -> list[Any]:
        nonlocal left
        waiting = scheduler(queue_images=4)
        waiting.prepare(model)
        gone = [
            asyncio.ensure_future(waiting.infer(model, images(1), LOGITS, Terms(gone=lambda: left))) for _ in range(4)
        ]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await waiting.infer_each(model, [images(1)] * 2, LOGITS)
        left = True
        return [await waiting.infer(model, images(4), LOGITS), *await all_of(*gone)]

    first, *others = run(infer)
    assert isinstance(first, Ran)
    assert {type(other) for other in others} == {ClientLeftError}
