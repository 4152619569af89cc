"""Several workers are one service: they share what is served, what is counted, what is seen, and the port."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.processes.size import share_of, workers_of
from service.settings import Settings
from tests import bundles
from tests.service import watched
from tests.service.conftest import eventually, png, settled
from tests.service.operated import Operated, operated
from tests.service.processes import ROOT

IMAGE = png(np.zeros((3, 8, 8), np.uint8))
CLASSIFY, LIVE = "/v1/models/tiny/classify", "/v2/health/live"
FRESH = 12


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    root = tmp_path_factory.mktemp("shelf")
    watched.publish(root)
    bundles.publish(root, "other")
    log = tmp_path_factory.mktemp("log") / "log"
    settings = {"WORKERS": 2, "STATISTICS_SAMPLE": 1, "LOG_FORMAT": "json", "ANNOUNCE_SECONDS": 0}
    with operated(root, log, **settings) as service:
        yield service


def fresh(service: Operated, method: str, path: str, **request: object) -> list[httpx.Response]:
    """The same request on several connections of their own that are open at the same time: every worker has some."""
    clients = [httpx.Client(base_url=service.url, timeout=30) for _ in range(FRESH)]
    try:
        for client in clients:
            client.get(LIVE)
        return [client.request(method, path, **request) for client in clients]  # type: ignore[arg-type]
    finally:
        for client in clients:
            client.close()


def workers(service: Operated) -> dict[int, int]:
    """Process ids by number, of those that joined last."""
    found = (re.fullmatch(r"worker (\d+) is process (\d+)", line["message"]) for line in service.lines())
    return {int(match[1]): int(match[2]) for match in found if match}


def children(pid: int) -> list[int]:
    """All processes below one."""
    below = [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    return below + [further for child in below for further in children(child)]


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def sample(service: Operated, name: str) -> float:
    """The sum of the samples whose line starts with `name`."""
    lines = service.client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_connections_are_shared_out_evenly(service: Operated) -> None:
    def open_files(pid: int) -> int:
        count = 0
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                count += str(file.readlink()).startswith("socket:")
        return count

    before = {pid: open_files(pid) for pid in workers(service).values()}
    assert len(before) == 2
    base = service.client.base_url
    connections = [socket.create_connection((base.host, base.port or 80)) for _ in range(8)]
    try:
        eventually(lambda: sum(open_files(pid) - count for pid, count in before.items()) == 8)
        assert all(open_files(pid) - count in (3, 4, 5) for pid, count in before.items())
    finally:
        for connection in connections:
            connection.close()


def test_what_is_unloaded_is_unloaded_in_all(service: Operated) -> None:
    path = "/v2/models/other/ready"
    assert [answer.status_code for answer in fresh(service, "GET", path)] == [200] * FRESH
    assert service.client.post("/v2/repository/models/other/unload").status_code == 200
    assert [answer.status_code for answer in fresh(service, "GET", path)] == [404] * FRESH
    assert service.client.post("/v2/repository/models/other/load").status_code == 200
    assert [answer.status_code for answer in fresh(service, "GET", path)] == [200] * FRESH


def inferred(service: Operated) -> int:
    """Images of all requests so far."""
    answer = service.client.get("/v2/models/tiny/stats").json()
    return int(answer["model_stats"][0]["inference_count"])


def test_counts_are_of_all_workers(service: Operated) -> None:
    requests = 'reslens_requests_total{method="POST",model="tiny"'

    def counts() -> tuple[int, float]:
        return inferred(service), sample(service, requests)

    before, counted = settled(counts)
    answers = fresh(service, "POST", CLASSIFY, content=IMAGE)
    assert [answer.status_code for answer in answers] == [200] * FRESH
    eventually(lambda: counts() == (before + FRESH, counted + FRESH))
    for _ in range(5):  # whichever worker is asked
        assert counts() == (before + FRESH, counted + FRESH)


def test_windows_are_of_all_workers(service: Operated) -> None:
    def images() -> int:
        return int(service.client.get("/v1/models/tiny/statistics?window=1h").json()["images"])

    fresh(service, "POST", CLASSIFY, content=IMAGE)
    total = settled(lambda: inferred(service))  # every request is watched
    assert total >= FRESH
    eventually(lambda: images() == total)
    seen = [answer.json()["images"] for answer in fresh(service, "GET", "/v1/models/tiny/statistics?window=1h")]
    assert seen == [total] * FRESH
    diagnosis = service.client.get("/v1/models/tiny/diagnosis?window=1h").json()
    assert diagnosis["current"]["images"] == total
    eventually(lambda: sample(service, "reslens_sampled_images_total") == total)


def test_a_question_that_cannot_be_answered_has_its_own_status(service: Operated) -> None:
    answer = service.client.get("/v1/models/tiny/statistics?window=1d")
    assert answer.status_code == 404
    assert "RESLENS_HISTORY_URL" in answer.json()["error"]
    assert service.client.post("/v2/repository/models/nobody/load").status_code == 404


def test_a_worker_that_falls_over_is_replaced(service: Operated) -> None:
    service.client.post("/v2/repository/models/other/unload")
    requests = 'reslens_requests_total{method="POST",model="tiny"'
    counted = settled(lambda: sample(service, requests))
    number, victim = next(iter(workers(service).items()))
    os.kill(victim, signal.SIGKILL)
    # The others serve on, whatever connections came to its end.
    assert [answer.status_code for answer in fresh(service, "POST", CLASSIFY, content=IMAGE)] == [200] * FRESH
    eventually(lambda: workers(service)[number] != victim)
    service.client.close()
    with httpx.Client(base_url=service.url, timeout=30) as client:
        assert client.get(LIVE).status_code == 200
    # The new one serves what the others do, and the dead one's counts stay.
    replaced = Operated(service.process, service.url, service.log, httpx.Client(base_url=service.url, timeout=30))
    assert [answer.status_code for answer in fresh(replaced, "GET", "/v2/models/other/ready")] == [404] * FRESH
    eventually(lambda: sample(replaced, requests) == counted + FRESH)
    replaced.client.post("/v2/repository/models/other/load")
    replaced.client.close()


def test_serving_goes_on_without_the_observer(service: Operated) -> None:
    client = httpx.Client(base_url=service.url, timeout=30)
    others = set(children(service.process.pid)) - set(workers(service).values())
    watcher = max(others)  # the last that was started
    os.kill(watcher, signal.SIGKILL)
    assert client.post(CLASSIFY, content=IMAGE).status_code == 200
    asked = client.get("/v1/models/tiny/statistics?window=1h")
    assert asked.status_code in (200, 503), asked.text
    eventually(lambda: client.get("/v1/models/tiny/statistics?window=1h").status_code == 200)
    assert client.post(CLASSIFY, content=IMAGE).status_code == 200
    eventually(lambda: client.get("/v1/models/tiny/statistics?window=1h").json()["images"] >= 1)
    client.close()


def test_hundreds_of_connections_at_once_are_all_served(service: Operated) -> None:
    def ask(_: int) -> int:
        return httpx.post(service.url + CLASSIFY, content=IMAGE, timeout=60).status_code

    with ThreadPoolExecutor(32) as threads:
        assert set(threads.map(ask, range(300))) == {200}


def test_a_worker_that_does_nothing_is_replaced(tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    with operated(tmp_path / "shelf", tmp_path / "log", WORKERS=1, LOG_FORMAT="json", STALL_SECONDS=2) as service:
        victim = workers(service)[0]
        os.kill(victim, signal.SIGSTOP)
        eventually(lambda: workers(service)[0] != victim, 40)
        assert service.client.get(LIVE).status_code == 200


def test_a_stalled_worker_gets_no_more_and_loses_nothing_it_did_not_take(tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    with operated(tmp_path / "shelf", tmp_path / "log", WORKERS=2, LOG_FORMAT="json") as service:
        victim = workers(service)[0]
        os.kill(victim, signal.SIGSTOP)
        with ThreadPoolExecutor(8) as threads:
            waiting = [threads.submit(httpx.get, service.url + LIVE, timeout=60) for _ in range(8)]
            time.sleep(1)  # now it is known to be behind
            for _ in range(20):
                assert httpx.get(service.url + LIVE, timeout=5).status_code == 200
            os.kill(victim, signal.SIGKILL)
            assert [answer.result().status_code for answer in waiting] == [200] * 8


@pytest.mark.parametrize("workers", [0, 2])
def test_who_asks_twice_does_not_wait(tmp_path: Path, workers: int) -> None:
    bundles.publish(tmp_path / "shelf")
    with operated(tmp_path / "shelf", tmp_path / "log", WORKERS=workers, DRAIN_SECONDS=60) as service:
        base = service.client.base_url
        with socket.create_connection((base.host, base.port or 80)) as connection:
            connection.sendall(f"POST {CLASSIFY} HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n".encode())
            eventually(lambda: sample(service, "reslens_requests_in_flight") >= 1)
            service.process.send_signal(signal.SIGINT)
            time.sleep(1)
            assert service.process.poll() is None
            service.process.send_signal(signal.SIGINT)
            service.process.wait(timeout=15)


def test_no_folder_for_temporary_files_is_said(tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    environment = os.environ | {"TMPDIR": str(deep), "RESLENS_MODEL_REPOSITORY": str(tmp_path / "shelf")}
    command = [sys.executable, "-m", "service"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "set TMPDIR" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("first", "devices"), [(0, [0, 1, 0]), (1, [1, 0, 1])])
def test_each_worker_has_its_own_device(first: int, devices: list[int]) -> None:
    settings = Settings(device=first, history_url="")
    assert [share_of(settings, number, 3, 8, gpus=2).device for number in range(3)] == devices
    assert share_of(settings, 1, 3, 8, gpus=0).device == first
    assert [share_of(settings, 0, workers, 8, 0).threads for workers in (1, 3, 8, 20)] == [8, 2, 1, 1]


@pytest.mark.parametrize(
    ("settings", "gpus", "expected"),
    [({}, 0, 8), ({}, 2, 2), ({"provider": "cpu"}, 2, 8), ({"threads": 3}, 0, 2), ({"workers": 0}, 2, 0)],
)
def test_there_are_as_many_workers_as_there_is_to_use(settings: dict[str, Any], gpus: int, expected: int) -> None:
    assert workers_of(Settings(history_url="", **settings), 8, gpus) == expected


def test_workers_do_not_outlive_their_supervisor(tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    with operated(tmp_path / "shelf", tmp_path / "log", WORKERS=2, LOG_FORMAT="json") as service:
        below = children(service.process.pid)
        assert len(below) >= 4
        service.process.kill()
        service.process.wait()
        eventually(lambda: not any(alive(pid) for pid in below))


def test_what_keeps_a_worker_from_starting_ends_the_service(tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    log = tmp_path / "log"
    with pytest.raises(AssertionError), operated(tmp_path / "shelf", log, WORKERS=2, TLS_CERTIFICATE=tmp_path / "none"):
        pass
    complaints = log.read_text().splitlines()
    assert len(complaints) == 1, complaints
    assert complaints[0].startswith("error: TLS is not possible")


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError), operated(tmp_path / "shelf", log, WORKERS=2, PORT=port):
            pass
    assert f"error: cannot listen on 127.0.0.1 port {port}: Address already in use" in log.read_text()


@pytest.mark.parametrize("seconds", [0.2, 0.8, 1.6])
def test_a_signal_while_it_starts_ends_it(tmp_path: Path, seconds: float) -> None:
    bundles.publish(tmp_path / "shelf")
    settings = {"MODEL_REPOSITORY": tmp_path / "shelf", "PORT": 0, "WORKERS": 2, "PROVIDER": "cpu", "HISTORY_URL": ""}
    environment = os.environ | {f"RESLENS_{name}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "service"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        time.sleep(seconds)
        process.terminate()
        assert process.wait(timeout=30) in (0, 3, -signal.SIGTERM)


def test_the_supervisor_needs_little() -> None:
    large = {"fastapi", "onnxruntime", "numpy", "sqlalchemy"}
    program = f"import sys, service.processes.supervisor; print(*{large} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
