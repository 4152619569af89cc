"""What processes counted that have ended: it stays, in a number of files that does not grow."""

import os
import signal
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from service.monitor.ended import gather, unmoved
from service.processes.worker import TALLY_SECONDS
from tests import bundles
from tests.service.conftest import eventually, settled
from tests.service.operated import Operated, operated
from tests.service.test_shared_metrics import count, counting, scraped
from tests.service.test_workers import CLASSIFY, IMAGE, workers

# Sums of these are exact, in whatever order.
SMALL = 2**-12
REQUESTS = 'reslens_requests_total{method="POST"'


def kill(directory: Path, *seconds: float) -> None:
    """Have a process count requests that took so long, and end."""
    with counting(directory) as process:
        for value in seconds:
            count(process, value)
        process.kill()
        process.wait(timeout=20)


def sums(directory: Path) -> bytes:
    """All counters and histograms, as Prometheus' client adds up whatever files there are."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]
    families = generate_latest(registry).decode().split("# HELP ")
    return "".join(sorted(family for family in families if " gauge\n" not in family)).encode()


def test_counts_stay_and_files_do_not(tmp_path: Path) -> None:
    with counting(tmp_path) as living:
        count(living, 0.125)
        for round_ in range(1, 4):
            kill(tmp_path, SMALL, 4.0 * round_)
            before = sums(tmp_path)
            assert gather(tmp_path)
            assert sums(tmp_path) == before
            assert len(list(tmp_path.glob("*.db"))) == 3 + 2
        values = scraped(living)
    assert values["reslens_requests_total", ""] == 7
    assert values["reslens_request_seconds_sum", ""] == 0.125 + 3 * SMALL + 24
    assert values["reslens_request_seconds_bucket", "0.0005"] == 3
    assert values["reslens_batch_images_sum", ""] == 21
    assert values["reslens_requests_in_flight", ""] == 1
    # The one that was asked has ended, too.
    assert gather(tmp_path)
    assert {file.name for file in tmp_path.glob("*.db")} == {"counter_ended.db", "histogram_ended.db"}


def test_nothing_is_moved_while_it_is_read(tmp_path: Path) -> None:
    kill(tmp_path, 0.1)
    before = {*tmp_path.glob("*.db")}
    with ExitStack() as readers:
        for _ in range(2):
            readers.enter_context(unmoved(tmp_path))
        assert not gather(tmp_path)
        assert {*tmp_path.glob("*.db")} == before
    assert gather(tmp_path)
    assert len({*tmp_path.glob("*.db")} - before) == 2


@pytest.mark.parametrize("content", [b"", bytes(8), struct.pack("ii", 99, 0), struct.pack("iii", 99, 0, 500) + b"x"])
def test_a_file_that_cannot_be_read_loses_its_own_counts_alone(tmp_path: Path, content: bytes) -> None:
    kill(tmp_path, 0.1)
    (dead,) = tmp_path.glob("counter_*.db")
    broken = tmp_path / "counter_999999999.db"  # greater than any process id
    broken.write_bytes(content)
    assert gather(tmp_path)
    assert not broken.exists()
    assert not dead.exists()
    assert b"reslens_requests_total{" in sums(tmp_path)


def replace(service: Operated, number: int, meanwhile: Callable[[], object]) -> None:
    """Kill a worker, and wait for the next one in its place."""
    victim = workers(service)[number]
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        meanwhile()
        return workers(service)[number] != victim

    eventually(replaced)


def test_workers_that_are_killed_leave_their_counts_and_no_files(tmp_path: Path, temporary: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    with operated(tmp_path / "shelf", tmp_path / "log", WORKERS=2, LOG_FORMAT="json") as service:
        seen = [0.0]

        def total() -> float:
            """Requests counted so far: it never goes back."""
            text = httpx.get(service.url + "/metrics").text
            lines = (line for line in text.splitlines() if line.startswith(REQUESTS))
            seen.append(sum(float(line.rsplit(" ", 1)[1]) for line in lines))
            assert seen[-1] >= seen[-2]
            return seen[-1]

        def reached(expected: int) -> bool:
            return total() == expected

        def files() -> int:
            return len(list(temporary.glob("reslens-*/metrics/*.db")))

        for expected in (5, 10, 15, 20):
            for _ in range(5):
                assert httpx.post(service.url + CLASSIFY, content=IMAGE).status_code == 200
            eventually(partial(reached, expected))
            replace(service, expected % 2, total)
            # Three of each living process, and two of all the others.
            eventually(lambda: files() <= 3 * 3 + 2)
            assert total() == expected
        assert settled(total) == 20


def requests(counts: dict[str, Any]) -> tuple[int, int]:
    """Those that were answered, and those that failed."""
    stats = counts["inference_stats"]
    return stats["success"]["count"], stats["fail"]["count"]


def test_a_worker_that_is_killed_leaves_what_it_tallied(tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    with operated(tmp_path / "shelf", tmp_path / "log", WORKERS=2, LOG_FORMAT="json") as service:
        seen = [0]

        def tallied() -> dict[str, Any]:
            """What was done so far, the same at both paths: it never goes back."""
            (counts,) = httpx.get(service.url + "/v2/models/stats").json()["model_stats"]
            assert counts == httpx.get(service.url + "/v2/models/tiny/stats").json()["model_stats"][0]
            seen.append(counts["inference_count"])
            assert seen[-1] >= seen[-2]
            return dict(counts)

        def reached(expected: int) -> bool:
            return requests(tallied()) == (expected, expected // 8)

        for number, expected in ((0, 8), (1, 16), (1, 24)):
            for _ in range(8):
                assert httpx.post(service.url + CLASSIFY, content=IMAGE).status_code == 200
            httpx.post(service.url + CLASSIFY, content=b"no image")
            eventually(partial(reached, expected))
            before = tallied()
            replace(service, number, tallied)
            assert tallied() == before
        for _ in range(8):
            assert httpx.post(service.url + CLASSIFY, content=IMAGE).status_code == 200
        httpx.post(service.url + CLASSIFY, content=b"no image")
        time.sleep(3 * TALLY_SECONDS)  # nobody asks, but what was counted is told all the same
        for number in (0, 1):
            replace(service, number, lambda: None)
        assert reached(32)
