"""A real process that gets more than it can do, with a model that takes long."""

import asyncio
import contextlib
import io
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests import bundles
from tests.service.conftest import eventually, png, settled
from tests.service.faults.slow import Slow
from tests.service.messages import message
from tests.service.operated import Operated, operated

INFER = "/v2/models/slow/infer"
CLASSIFY = "/v1/models/slow/classify"
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, bundles.SIZE, bundles.SIZE), dtype=np.uint8)
ROOM = 6


# The model whose logits the slow one has.
TINY = bundles.Tiny.random(2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root, "slow", graph=Slow(TINY, layers=2).content())
    return root


@pytest.fixture(scope="module")
def service(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    log = tmp_path_factory.mktemp("log") / "log"
    with operated(root, log, QUEUE_IMAGES=ROOM, BATCHING="off", STATISTICS_SAMPLE=0) as service:
        yield service


def counted(service: Operated) -> int:
    """Images that were computed so far."""
    return service.client.get("/v2/models/slow/stats").json()["model_stats"][0]["inference_count"]


def metric(service: Operated, name: str) -> float:
    lines = service.client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def request(image: int = 0, **parameters: Any) -> tuple[bytes, dict[str, str]]:
    return message(IMAGES[image].tobytes(), 1, *IMAGES.shape[1:], parameters=parameters)


@contextlib.asynccontextmanager
async def asking(service: Operated) -> AsyncIterator[Callable[..., Awaitable[httpx.Response]]]:
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:

        async def ask(image: int = 0, **parameters: Any) -> httpx.Response:
            body, headers = request(image, **parameters)
            return await client.post(INFER, content=body, headers=headers)

        yield ask


def logits(response: httpx.Response) -> np.ndarray:
    return np.array(response.json()["outputs"][0]["data"]).reshape(1, -1)


def test_more_than_may_wait_is_told_when_to_come_again(service: Operated) -> None:
    async def flood() -> list[httpx.Response]:
        async with asking(service) as ask:
            return await asyncio.gather(*(ask(image) for image in range(12)))

    before = settled(lambda: counted(service))
    responses = asyncio.run(flood())
    served = [response for response in responses if response.status_code == 200]
    refused = [response for response in responses if response.status_code == 429]
    assert len(served) + len(refused) == 12
    assert len(served) >= 1 + ROOM
    assert refused
    for response in refused:
        assert "wait already" in response.json()["error"]
        # The whole queue takes less than two seconds.
        assert 1 <= int(response.headers["retry-after"]) <= 3
    for image, response in enumerate(responses):
        if response in served:
            np.testing.assert_allclose(logits(response), TINY.logits(IMAGES[image : image + 1]), rtol=1e-3, atol=1e-3)
    eventually(lambda: counted(service) == before + len(served))


def test_the_first_come_is_the_first_served(service: Operated) -> None:
    order: list[int] = []

    async def staggered() -> None:
        async with asking(service) as ask:

            async def note(image: int) -> None:
                assert (await ask(image)).status_code == 200
                order.append(image)

            async with asyncio.TaskGroup() as tasks:
                for image in range(ROOM):
                    tasks.create_task(note(image))
                    await asyncio.sleep(0.1)

    asyncio.run(staggered())
    assert order == sorted(order)


def test_the_urgent_overtakes(service: Operated) -> None:
    order: list[int] = []
    priorities = (9, 0, 0, 1)

    async def race() -> None:
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
            # Made before, for a connection takes as long as a run.
            await asyncio.gather(*(client.get("/v2/health/live") for _ in range(1 + len(priorities))))

            async def note(priority: int, images: int) -> None:
                body, headers = message(
                    IMAGES[:images].tobytes(), images, *IMAGES.shape[1:], parameters={"priority": priority}
                )
                assert (await client.post(INFER, content=body, headers=headers)).status_code == 200
                order.append(priority)

            async with asyncio.TaskGroup() as tasks:
                # A run of many images, so that all others wait before one of them can begin.
                tasks.create_task(note(0, ROOM))
                await asyncio.sleep(0.05)
                for priority in priorities:
                    tasks.create_task(note(priority, 1))
                    await asyncio.sleep(0.005)

    asyncio.run(race())
    assert order == [0, 1, 0, 0, 9]


def test_the_less_urgent_waits_but_not_for_ever(service: Operated) -> None:
    async def compete() -> tuple[float, int]:
        async with asking(service) as ask:
            done = asyncio.Event()
            served = 0

            async def keep_asking() -> None:
                nonlocal served
                while not done.is_set():
                    assert (await ask(priority=1)).status_code == 200
                    served += 1

            async with asyncio.TaskGroup() as tasks:
                for _ in range(4):
                    tasks.create_task(keep_asking())
                await asyncio.sleep(0.2)
                started, before = time.monotonic(), served
                assert (await ask(priority=2)).status_code == 200
                done.set()
                return time.monotonic() - started, served - before

    seconds, others = asyncio.run(compete())
    # One level is worth a second.
    assert 0.7 < seconds < 6
    assert others > 4


def test_what_waits_too_long_is_not_computed(service: Operated) -> None:
    async def crowd() -> tuple[httpx.Response, httpx.Response, float, int]:
        # Made before, for a client takes as long as a run.
        async with asking(service) as ask, httpx.AsyncClient(base_url=service.url, timeout=30) as client:
            await client.get("/v2/health/live")
            done = asyncio.Event()
            served = 0

            async def keep_asking() -> None:
                nonlocal served
                while not done.is_set():
                    assert (await ask()).status_code == 200
                    served += 1

            async with asyncio.TaskGroup() as tasks:
                for _ in range(4):
                    tasks.create_task(keep_asking())
                while served < 4:
                    await asyncio.sleep(0.01)
                started = time.monotonic()
                query = {"timeout_ms": 20, "priority": 9}
                late, image = await asyncio.gather(
                    ask(timeout=20_000, priority=9), client.post(CLASSIFY, params=query, content=png(IMAGES[0]))
                )
                seconds = time.monotonic() - started
                done.set()
        return late, image, seconds, served

    before = settled(lambda: counted(service))
    late, image, seconds, served = asyncio.run(crowd())
    assert (late.status_code, image.status_code) == (504, 504)
    assert "waited until its timeout" in late.json()["error"]
    # Much less than the second after which it would have been its turn, nine times over.
    assert seconds < 5
    eventually(lambda: counted(service) == before + served)


def test_whoever_leaves_the_queue_is_not_computed(service: Operated) -> None:
    body, headers = request()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    content = f"POST {INFER} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body
    left = 'reslens_requests_total{method="POST",model="slow",route="/v2/models/{name}/infer",status="499"}'
    before, already = settled(lambda: (counted(service), metric(service, left)))
    address = service.url.removeprefix("http://").split(":")
    connections = [socket.create_connection((address[0], int(address[1]))) for _ in range(5)]
    for connection in connections:
        connection.sendall(content)
    eventually(lambda: metric(service, "reslens_requests_in_flight") >= 6)
    for connection in connections[2:4]:
        connection.close()
    for connection in (connections[0], connections[1], connections[4]):
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.close()
    eventually(lambda: metric(service, "reslens_requests_in_flight") <= 1)
    eventually(lambda: (counted(service), metric(service, left)) == (before + 3, already + 2))


def test_others_are_answered_while_a_model_runs_and_a_photo_is_decoded(service: Operated) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
    photo = io.BytesIO()
    Image.fromarray(noise).save(photo, "JPEG", quality=50)

    async def listen() -> tuple[int, list[float]]:
        async with asking(service) as ask, httpx.AsyncClient(base_url=service.url, timeout=30) as client:
            await client.get("/v2/health/live")
            busy = asyncio.gather(client.post(CLASSIFY, content=photo.getvalue()), *(ask() for _ in range(5)))
            seconds = []
            while not busy.done():
                started = time.monotonic()
                assert (await client.get("/v2/health/live")).status_code == 200
                seconds.append(time.monotonic() - started)
            return {response.status_code for response in await busy}, seconds

    statuses, seconds = asyncio.run(listen())
    assert statuses == {200}
    # The model alone runs for 0.3 s, and the photo is decoded for as long.
    assert len(seconds) > 10
    assert np.median(seconds) < 0.05


def test_the_queue_is_measured(service: Operated) -> None:
    def depth() -> float:
        return metric(service, "reslens_queue_depth ")

    async def flood() -> tuple[int, float]:
        """Have six ask again and again until it is seen that they wait; how often they asked, and the depth."""
        deepest, asked, end = 0.0, 0, time.monotonic() + 20
        async with asking(service) as ask:

            async def keep_asking() -> None:
                nonlocal asked
                while deepest < 1 and time.monotonic() < end:
                    asked += 1
                    assert (await ask()).status_code == 200

            async with asyncio.TaskGroup() as tasks:
                for _ in range(6):
                    tasks.create_task(keep_asking())
                while deepest < 1 and time.monotonic() < end:
                    deepest = max(deepest, await asyncio.to_thread(depth))
        return asked, deepest

    def measured() -> tuple[float, float]:
        return metric(service, "reslens_batch_images_count"), metric(service, "reslens_queue_seconds_sum")

    runs, waited = settled(measured)
    asked, deepest = asyncio.run(flood())
    # One of the six runs.
    assert 1 <= deepest <= 5
    eventually(lambda: measured()[0] == runs + asked)
    # The last of the first six waited for five runs.
    assert measured()[1] - waited > 0.1
    eventually(lambda: depth() == 0)


def test_runs_are_shared_and_what_waits_at_the_end_is_answered(root: Path, tmp_path: Path) -> None:
    with operated(root, tmp_path / "log", BATCHING="on", STATISTICS_SAMPLE=0, ANNOUNCE_SECONDS=0) as service:

        async def flood(ends: bool) -> list[httpx.Response]:
            async with asking(service) as ask:
                waiting = [asyncio.ensure_future(ask(image)) for image in range(12)]
                if ends:
                    await asyncio.sleep(0.15)
                    service.process.send_signal(signal.SIGTERM)
                return await asyncio.gather(*waiting)

        for ends in (False, True):
            responses = asyncio.run(flood(ends))
            assert [response.status_code for response in responses] == [200] * 12
            np.testing.assert_allclose(
                np.concatenate([logits(response) for response in responses]), TINY.logits(IMAGES), rtol=1e-3, atol=1e-3
            )
            if not ends:
                eventually(lambda: counted(service) == 12)
                (counts,) = service.client.get("/v2/models/slow/stats").json()["model_stats"]
                assert counts["inference_count"] == 12
                assert counts["execution_count"] <= 6
                batches = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in counts["batch_stats"]}
                assert sum(size * count for size, count in batches.items()) == 12
        assert service.process.wait(timeout=20) in (0, -signal.SIGTERM)
        assert "Traceback" not in service.log.read_text()


def test_timeouts_have_a_default_and_a_limit(root: Path, tmp_path: Path) -> None:
    settings = {"TIMEOUT_SECONDS": 0.1, "MAX_TIMEOUT_SECONDS": 0.25, "BATCHING": "off"}
    with operated(root, tmp_path / "log", **settings) as service:

        async def flood(**parameters: Any) -> list[int]:
            async with asking(service) as ask:
                return [each.status_code for each in await asyncio.gather(*(ask(**parameters) for _ in range(12)))]

        for parameters in ({}, {"timeout": 60_000_000}):
            statuses = asyncio.run(flood(**parameters))
            assert set(statuses) == {200, 504}

        def failures() -> int:
            body = json.loads(service.client.get("/v2/models/slow/stats").text)["model_stats"][0]
            return int(body["inference_stats"]["fail"]["count"])

        eventually(lambda: failures() >= 2)
