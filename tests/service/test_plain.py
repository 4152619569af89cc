"""Requests whose heads came before are answered as the first one was, however they come."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.express import Express
from service.plain import HEADS, HOLD_SECONDS, Heads
from tests import bundles
from tests.service.conftest import png
from tests.service.operated import operated

IMAGE = png(np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8))
END = b"\r\n\r\n"


@pytest.fixture
def connect(client: httpx.Client) -> Iterator[Callable[[], socket.socket]]:
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def request(body: bytes = IMAGE, top_k: int = 5, *headers: str) -> bytes:
    line = f"POST /v1/models/tiny/classify?top_k={top_k} HTTP/1.1"
    return "\r\n".join((line, "Host: h", *headers, f"Content-Length: {len(body)}", "", "")).encode() + body


def answers(connection: socket.socket, count: int = 1) -> list[tuple[int, dict[str, Any]]]:
    """So many answers; what follows them would be a failure of its own."""
    received, found = b"", []
    while len(found) < count:
        while (end := received.find(END)) < 0 or len(received) < end + 4 + length(received[:end]):
            data = connection.recv(65536)
            assert data, "the connection was closed"
            received += data
        size = end + 4 + length(received[:end])
        found.append((int(received.split(b" ")[1]), json.loads(received[end + 4 : size])))
        received = received[size:]
    assert received == b""
    return found


def length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])


def classes(answer: tuple[int, dict[str, Any]]) -> int:
    assert answer[0] == 200, answer
    return len(answer[1]["images"][0]["classes"])


def test_a_head_that_came_before_is_known(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect()
    seen, known = [], []

    def find(heads: Heads, data: bytes) -> Any:
        known.append(found := original(heads, data))
        return found

    original = Heads.find
    monkeypatch.setattr(Heads, "find", find)
    for _ in range(5):
        connection.sendall(request(IMAGE, 4))  # as no other test
        seen += answers(connection)
    assert [found is not None for found in known] == [False, True, True, True, True]
    for _, body in seen:
        body.pop("timing")
    assert all(answer == seen[0] for answer in seen)
    assert seen[0][0] == 200


def test_the_same_head_with_other_bodies(connect: Callable[[], socket.socket]) -> None:
    other = bytes(len(IMAGE))
    connection = connect()
    for body, status in ((IMAGE, 200), (other, 422), (IMAGE, 200), (other, 422)):
        connection.sendall(request(body))
        assert answers(connection)[0][0] == status


def test_heads_that_differ_are_told_apart(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    for top_k in (1, 2, 1, 2, 3):
        connection.sendall(request(IMAGE, top_k))
        assert classes(answers(connection)[0]) == top_k


@pytest.mark.parametrize("cut", [1, 60, -len(IMAGE), -len(IMAGE) + 1, -1])
@pytest.mark.parametrize("pause", [0.0, 3 * HOLD_SECONDS], ids=["at once", "late"])
def test_a_known_request_may_come_in_two_parts(connect: Callable[[], socket.socket], cut: int, pause: float) -> None:
    connection = connect()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(3):
        connection.sendall(request()[:cut])
        time.sleep(pause or 0.005)
        connection.sendall(request()[cut:])
        assert classes(answers(connection)[0]) == 3


def test_a_head_in_the_middle_of_another_is_no_head(connect: Callable[[], socket.socket]) -> None:
    # A request whose body is as long as its head but for two bytes: the first of them may look like a whole one.
    length = 90
    while (head := request(bytes(length)).removesuffix(END + bytes(length))) and len(head) - 2 != length:
        length = len(head) - 2
    whole = head + END + bytes(length)
    first = connect()
    first.sendall(whole)
    assert answers(first)[0][0] == 422  # and now the head is known
    for cut in range(1, len(whole)):
        connection = connect()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(whole[:cut])
        time.sleep(0.002)
        connection.sendall(whole[cut:])
        assert answers(connection)[0][0] == 422
        connection.close()


def test_a_known_request_has_no_more_time_than_others(tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    with operated(tmp_path / "shelf", tmp_path / "log", BODY_SECONDS=1, WORKERS=0) as service:
        address = (service.client.base_url.host, service.client.base_url.port)
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(request(bytes(5000)))
            answers(connection)
            started = time.monotonic()
            connection.sendall(request(bytes(5000))[:-4990])
            connection.settimeout(HOLD_SECONDS / 2)
            while time.monotonic() - started < 10:  # each byte comes before what is held would be given up
                with contextlib.suppress(TimeoutError):
                    assert connection.recv(65536).startswith(b"HTTP/1.1 408")
                    return
                connection.sendall(b"\0")
            pytest.fail("it was waited for")


def test_what_is_cut_off_is_answered(connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect()
    connection.sendall(request(IMAGE, 3))
    answers(connection)

    async def cut_off(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(Express, "_respond", cut_off)
    connection.sendall(request(IMAGE, 3))
    received = b""
    while data := connection.recv(65536):
        received += data
    assert received.startswith(b"HTTP/1.1 500 ")
    assert b"connection: close" in received


def test_known_requests_in_one_packet_are_answered_in_their_order(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    for top_k in (1, 2):  # both heads become known
        connection.sendall(request(IMAGE, top_k))
        answers(connection)
    connection.sendall(request(IMAGE, 1) + request(IMAGE, 2) + request(IMAGE, 1))
    assert [classes(answer) for answer in answers(connection, 3)] == [1, 2, 1]
    for top_k in (1, 2, 1):  # or one after the other, without waiting
        connection.sendall(request(IMAGE, top_k))
    assert [classes(answer) for answer in answers(connection, 3)] == [1, 2, 1]


def test_a_connection_that_is_to_be_closed_is_closed(connect: Callable[[], socket.socket]) -> None:
    for _ in range(3):
        connection = connect()
        connection.sendall(request(IMAGE, 2, "Connection: close"))
        assert classes(answers(connection)[0]) == 2
        assert connection.recv(1) == b""


def test_empty_lines_before_a_request_are_no_request(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(request())
    answers(connection)
    connection.sendall(END)
    connection.settimeout(0.3)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.settimeout(20)
    connection.sendall(request())
    assert classes(answers(connection)[0]) == 3


def test_who_leaves_in_the_middle_of_a_known_request_leaves_no_trace(
    connect: Callable[[], socket.socket], client: httpx.Client
) -> None:
    for _ in range(2):
        connection = connect()
        connection.sendall(request())
        answers(connection)
        connection.sendall(request()[:-10])
        connection.close()
    time.sleep(2 * HOLD_SECONDS)
    assert client.post("/v1/models/tiny/classify", content=IMAGE).status_code == 200


def scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    of_head = ("type", "asgi", "http_version", "scheme", "root_path", "method", "path", "raw_path", "query_string")
    return {**dict.fromkeys(of_head, ""), "headers": list(headers)}


async def nobody(*_: object) -> None: ...


def test_only_what_was_one_request_with_a_length_is_remembered() -> None:
    heads = Heads(lambda _: nobody)
    data = b"POST / HTTP/1.1\r\nContent-Length: 3" + END + b"abc"
    heads.remember(data, len(data) + 1, scope((b"content-length", b"3")))  # more than one
    heads.remember(data, len(data), scope())
    heads.remember(data, len(data), scope((b"content-length", b"3"), (b"x-request-id", b"1")))  # comes once
    heads.remember(data[:20], len(data), scope((b"content-length", b"3")))  # its end came later
    assert heads.find(data) is None
    heads.remember(data, len(data), scope((b"content-length", b"3")))
    found = heads.find(data)
    assert found is not None
    assert (found[0].length, found[1]) == (3, len(data) - 3)
    assert heads.find(data.replace(b"POST", b"PUT")) is None


def test_heads_beyond_the_most_push_out_the_first() -> None:
    heads = Heads(lambda _: nobody)
    requests = [b"POST /%d HTTP/1.1\r\nContent-Length: 0" % number + END for number in range(HEADS + 2)]
    for data in requests:
        heads.remember(data, len(data), scope((b"content-length", b"0")))
    known = [heads.find(data) is not None for data in requests]
    assert known == [False, False, *[True] * HEADS]
