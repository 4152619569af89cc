"""Clients that stop in the middle of a body, and clients that would rather speak another protocol."""

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests import bundles
from tests.service.conftest import eventually
from tests.service.operated import Operated, operated

INDEX = "/v2/repository/index"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root)
    with operated(root, tmp_path_factory.mktemp("log") / "log", BODY_SECONDS=0.5) as service:
        yield service
    assert "Traceback" not in service.log.read_text()


@pytest.fixture
def connection(service: Operated) -> Iterator[socket.socket]:
    base = service.client.base_url
    with socket.create_connection((base.host, base.port or 80), timeout=20) as connection:
        yield connection


def head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: here", *headers, "", "")).encode()


def answer(connection: socket.socket) -> tuple[int, dict[str, str], str]:
    """The next one on the connection: status, headers, body."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    lines, body = received.split(b"\r\n\r\n", 1)
    first, *fields = lines.decode().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(first.split()[1]), headers, body.decode()


def is_closed(connection: socket.socket) -> bool:
    return connection.recv(65536) == b""


LENGTH = "Content-Length: 100000"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("path", "headers", "begin"),
    [
        (INDEX, [LENGTH], b'{"ready"'),
        (INDEX, [LENGTH], b""),
        (INDEX, [CHUNKED], b"5\r\n{    \r\n"),
        (INDEX, [LENGTH, "Content-Encoding: gzip"], b"\x1f\x8b"),
        ("/v2/models/tiny/infer", [LENGTH], b'{"inputs"'),
        ("/v1/models/tiny/classify", [LENGTH, "Content-Type: image/png"], b"\x89PNG"),
        ("/v1/models/tiny/classify", [LENGTH, "Content-Type: multipart/form-data; boundary=b"], b"--b\r\n"),
    ],
    ids=["begun", "not begun", "chunked", "gzip", "tensor", "image", "form"],
)
def test_a_body_that_stops_is_cut_off(connection: socket.socket, path: str, headers: list[str], begin: bytes) -> None:
    started = time.monotonic()
    connection.sendall(head("POST", path, *headers) + begin)
    status, fields, body = answer(connection)
    assert status == 408
    assert "too slowly" in json.loads(body)["error"]
    assert fields["x-request-id"]
    assert 0.4 < time.monotonic() - started < 5
    assert is_closed(connection)


def test_a_body_that_trickles_is_cut_off(connection: socket.socket) -> None:
    connection.sendall(head("POST", INDEX, LENGTH))
    connection.settimeout(0.05)
    for _ in range(100):
        connection.sendall(b" ")
        try:
            received = connection.recv(65536)
            break
        except TimeoutError:
            continue
    assert received.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_takes_long_and_goes_on_is_fine(connection: socket.socket) -> None:
    parts = [b"{", *[b" " * 400] * 12, b"}"]
    connection.sendall(head("POST", "/v2/models/tiny/infer", f"Content-Length: {sum(map(len, parts))}"))
    for part in parts:  # of the double of what is asked, for longer than the limit
        connection.sendall(part)
        time.sleep(0.12)
    status, _, body = answer(connection)
    assert status == 400
    assert "inputs" in json.loads(body)["error"]


def test_it_is_counted(service: Operated) -> None:
    counted = 'reslens_requests_total{method="POST",model="",route="/v2/repository/index",status="408"}'
    eventually(lambda: counted in service.client.get("/metrics").text)


def test_a_websocket_is_refused_in_words(connection: socket.socket) -> None:
    asked = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA")
    connection.sendall(head("GET", "/v2", *asked))
    status, fields, body = answer(connection)
    assert status == 400
    assert json.loads(body) == {"error": "there are no websockets here: send plain HTTP requests"}
    assert fields["content-type"] == "application/json"
    assert is_closed(connection)


@pytest.mark.parametrize("pieces", [1, 2])
def test_who_would_rather_speak_http_2_is_answered_all_the_same(
    service: Operated, connection: socket.socket, pieces: int
) -> None:
    """As Java's client asks by default, with the first request of a connection."""
    asked = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA")
    body = b'{"ready": true}'
    first = head("POST", INDEX, *asked, f"Content-Length: {len(body)}")
    if pieces == 1:
        connection.sendall(first + body)
    else:
        connection.sendall(first)
        time.sleep(0.1)
        connection.sendall(body)
    status, _, listed = answer(connection)
    assert (status, [entry["name"] for entry in json.loads(listed)]) == (200, ["tiny"])
    # The connection goes on.
    connection.sendall(head("GET", "/v2", *asked))
    assert answer(connection)[0] == 200
    connection.sendall(head("GET", "/v2"))
    assert answer(connection)[0] == 200
    assert "Unsupported upgrade" not in service.log.read_text()


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
def test_hundreds_who_would_rather_speak_another_protocol_in_one_packet(
    service: Operated, connection: socket.socket, upgrade: str
) -> None:
    count = 600
    connection.sendall(head("GET", "/v2", "Connection: Upgrade", f"Upgrade: {upgrade}") * count)
    received = b""
    while received.count(b"HTTP/1.1 ") < count and (more := connection.recv(65536)):
        received += more
    # The refusal of a websocket closes the connection.
    assert received.count(b"HTTP/1.1 200 ") == (count if upgrade == "h2c" else 0)
    assert received.count(b"HTTP/1.1 400 ") == (0 if upgrade == "h2c" else 1)
    assert "RecursionError" not in service.log.read_text()


def test_connect_is_a_bad_request(connection: socket.socket) -> None:
    connection.sendall(b"CONNECT here:443 HTTP/1.1\r\nHost: here\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_an_answer_is_one_packet(connection: socket.socket) -> None:
    for _ in range(20):
        connection.sendall(head("GET", "/v2"))
        assert connection.recv(65536).endswith(b"}")


def test_answers_without_a_body_come_too(connection: socket.socket) -> None:
    for method, path in (("HEAD", "/v2/health/ready"), ("GET", "/v2"), ("HEAD", "/metrics")):
        connection.sendall(head(method, path))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_who_waits_to_be_told_to_go_on_is_told(connection: socket.socket) -> None:
    connection.sendall(head("POST", INDEX, "Content-Length: 2", "Expect: 100-continue"))
    assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"{}")
    assert answer(connection)[0] == 200
