"""The end of a process that is told to end, with requests under way."""

import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests import bundles
from tests.service.conftest import eventually, png
from tests.service.operated import Operated, operated

IMAGE = png(np.zeros((3, 8, 8), np.uint8))
# One process alone, and several.
WORKERS = pytest.mark.parametrize("workers", [0, 2])
READY, INFER = "/v2/health/ready", "/v1/models/tiny/classify"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root)
    return root


def connected(service: Operated) -> socket.socket:
    base = service.client.base_url
    return socket.create_connection((base.host, base.port or 80), timeout=30)


def begun(service: Operated) -> socket.socket:
    """A request that is under way: the service has its head and half of its image, and waits for the rest."""
    connection = connected(service)
    head = f"POST {INFER} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(IMAGE)}\r\n\r\n".encode()
    connection.sendall(head + IMAGE[:20])
    eventually(lambda: b"reslens_requests_in_flight 2.0" in service.client.get("/metrics").content)
    return connection


def received(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def refused(service: Operated) -> bool:
    try:
        connected(service).close()
    except ConnectionError:
        return True
    return False


def seconds(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


@WORKERS
def test_it_is_announced_then_requests_end_and_nobody_is_let_in(shelf: Path, tmp_path: Path, workers: int) -> None:
    with operated(shelf, tmp_path / "log", WORKERS=workers, ANNOUNCE_SECONDS=2) as service, begun(service) as slow:
        assert service.client.get(READY).status_code == 200
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        told = time.monotonic()
        # At once: not ready, but serving, on new connections.
        answer = httpx.get(service.url + READY)
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "live": True})
        served = httpx.post(service.url + INFER, content=IMAGE)
        eventually(lambda: httpx.get(service.url + "/v2/health/live").headers.get("connection") == "close")
        assert served.status_code == 200
        assert time.monotonic() - told < 1.5, "too slow to tell"
        # Then: nobody is let in, and the one who is inside is served.
        eventually(lambda: refused(service))
        assert service.process.poll() is None
        slow.sendall(IMAGE[20:])
        answer_bytes = received(slow)
        assert answer_bytes.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b'"label"' in answer_bytes
        assert service.process.wait(timeout=10) in (0, -signal.SIGTERM)
        assert "Traceback" not in service.log.read_text()


@WORKERS
def test_a_request_that_does_not_end_is_cut_off(shelf: Path, tmp_path: Path, workers: int) -> None:
    with operated(shelf, tmp_path / "log", WORKERS=workers, DRAIN_SECONDS=1) as service, begun(service):
        assert 0.9 < seconds(service.stopped) < 8


@WORKERS
def test_an_idle_connection_does_not_prolong_it(shelf: Path, tmp_path: Path, workers: int) -> None:
    with operated(shelf, tmp_path / "log", WORKERS=workers, DRAIN_SECONDS=20) as service, connected(service) as silent:
        service.client.get(READY)  # keeps its connection
        assert seconds(service.stopped) < 8
        assert received(silent) == b""


@WORKERS
def test_a_second_signal_ends_the_announcement(shelf: Path, tmp_path: Path, workers: int) -> None:
    with operated(shelf, tmp_path / "log", WORKERS=workers, ANNOUNCE_SECONDS=60) as service:
        service.process.terminate()
        eventually(lambda: service.client.get(READY).status_code == 503)
        assert seconds(service.stopped) < 8


@WORKERS
def test_ctrl_c_announces_nothing(shelf: Path, tmp_path: Path, workers: int) -> None:
    with operated(shelf, tmp_path / "log", WORKERS=workers, ANNOUNCE_SECONDS=60) as service:
        service.process.send_signal(signal.SIGINT)
        assert seconds(lambda: service.process.wait(timeout=30)) < 8


@WORKERS
def test_the_history_is_written_last(shelf: Path, tmp_path: Path, workers: int) -> None:
    file = tmp_path / "history.sqlite3"
    settings = {"HISTORY_URL": f"sqlite:///{file}", "STATISTICS_SAMPLE": 1}
    with operated(shelf, tmp_path / "log", WORKERS=workers, **settings) as service:
        # Whoever watches may be there a moment later than those who serve.
        eventually(lambda: service.client.get("/v1/models/tiny/statistics").status_code == 200)
        with begun(service) as slow:
            service.process.terminate()
            eventually(lambda: refused(service))
            slow.sendall(IMAGE[20:])
            assert received(slow).startswith(b"HTTP/1.1 200 OK\r\n")
            service.process.wait(timeout=20)
    with sqlite3.connect(file) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        rows = {name: database.execute(f'select count(*) from "{name}"').fetchone()[0] for name in tables}
    database.close()
    assert rows["buckets"] == 1, rows
