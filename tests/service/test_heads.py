"""Limits on the heads of requests, seen from the socket."""

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from tests import bundles
from tests.service.operated import Operated, operated

LIMIT = 4096
CHUNKED = b"POST /v2/repository/index HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root)
    log = tmp_path_factory.mktemp("log") / "log"
    with operated(root, log, MAX_HEADER_BYTES=LIMIT, HEADER_SECONDS=1) as service:
        yield service


@pytest.fixture
def connection(service: Operated) -> Iterator[socket.socket]:
    base = service.client.base_url
    with socket.create_connection((base.host, base.port or 80), timeout=20) as connection:
        yield connection
    assert service.client.get("/v2/health/ready").status_code == 200
    assert "Traceback" not in service.log.read_text()


def received(connection: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):
        for part in iter(lambda: connection.recv(65536), b""):
            answer += part
    return answer


def sent_until_cut_off(connection: socket.socket, part: bytes, most: int) -> int:
    """Bytes that were taken before the connection was closed."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < most:
            connection.sendall(part)
            sent += len(part)
    return sent


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2 HTTP/1.1\r\nHost: here\r\nX-Long: " + b"a" * LIMIT + b"\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: here\r\n" + b"A: 1\r\n" * LIMIT + b"\r\n",
        b"GET /v2?" + b"a" * LIMIT + b" HTTP/1.1\r\nHost: here\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: here\r\nX-Endless: " + b"a" * 2 * LIMIT,
    ],
    ids=["one header", "many headers", "path", "not ended"],
)
def test_a_head_that_is_too_long_is_refused(connection: socket.socket, head: bytes) -> None:
    connection.sendall(head[:60])
    time.sleep(0.1)
    with contextlib.suppress(ConnectionError):
        connection.sendall(head[60:])
    answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert answer.endswith(b'{"error":"the headers of the request are too long: send fewer or shorter ones"}')


def test_a_head_within_the_limit_is_fine(service: Operated) -> None:
    for _ in range(3):  # each counts for itself, on one connection
        assert service.client.get("/v2", headers={"X-Long": "a" * (LIMIT - 500)}).status_code == 200


@pytest.mark.parametrize(
    "part", [b"a" * 65536, b"A: 1\r\n" * 10000], ids=["a value that does not end", "trailers without end"]
)
def test_trailers_count_too(connection: socket.socket, part: bytes) -> None:
    connection.sendall(CHUNKED + b"2\r\n{}\r\n0\r\nTrailer: 1\r\nX: ")
    assert sent_until_cut_off(connection, part, 64 << 20) < 16 << 20


def test_a_long_body_is_no_head(service: Operated) -> None:
    body = b"{}" + b" " * 4000
    assert service.client.post("/v2/repository/index", content=body).status_code == 200
    answer = service.client.post("/v1/models/tiny/classify", content=b"a" * 100_000)
    assert "image" in answer.json()["error"]


@pytest.mark.parametrize("begin", [b"", b"GET /v2 HTTP/1.1\r\nHo", b"GET /v2 HTTP/1.1\r\nHost: here\r\n\r\nGET /v2 HT"])
def test_a_head_that_does_not_come_is_not_waited_for(connection: socket.socket, begin: bytes) -> None:
    started = time.monotonic()
    connection.sendall(begin)
    answer = received(connection)
    assert 0.5 < time.monotonic() - started < 4
    assert answer.count(b"HTTP/1.1 200 ") == begin.count(b"\r\n\r\n")


def test_empty_lines_keep_no_connection(connection: socket.socket) -> None:
    connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: here\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    started = time.monotonic()
    connection.sendall(b"\r\n")
    assert received(connection) == b""
    assert time.monotonic() - started < 4


def test_a_body_that_was_refused_is_not_waited_for(connection: socket.socket) -> None:
    connection.sendall(b"POST /v2/repository/index HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000000\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    started = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - started < 10:
            connection.sendall(b" ")
            time.sleep(0.05)
    assert time.monotonic() - started < 5


def test_one_that_comes_slowly_is_not_waited_for_longer(connection: socket.socket) -> None:
    started = time.monotonic()
    with contextlib.suppress(ConnectionError):
        connection.sendall(b"GET /v2 HTTP/1.1\r\n")
        while time.monotonic() - started < 10:
            connection.sendall(b"A: 1\r\n")
            time.sleep(0.1)
    assert time.monotonic() - started < 4


def test_a_body_may_take_longer(connection: socket.socket) -> None:
    connection.sendall(b"POST /v2/repository/index HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{")
    time.sleep(1.5)
    connection.sendall(b"}")
    assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
