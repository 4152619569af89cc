"""Clients that send too much, too little, or leave: seen from the socket."""

import logging
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from tests.service.conftest import png

IMAGE = png(np.zeros((3, 8, 8), np.uint8))


@pytest.fixture
def connection(client: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20) as connection:
        yield connection


@pytest.fixture(autouse=True)
def still_answers(client: httpx.Client) -> Iterator[None]:
    yield
    assert client.post("/v1/models/tiny/classify", content=IMAGE).status_code == 200


def head(*headers: str) -> bytes:
    lines = ("POST /v1/models/tiny/classify HTTP/1.1", "Host: localhost", *headers)
    return "\r\n".join((*lines, "", "")).encode()


def status(connection: socket.socket) -> int:
    return int(connection.recv(65536).split(b" ")[1])


def test_a_long_body_is_refused_before_it_is_sent(connection: socket.socket) -> None:
    connection.sendall(head("Content-Length: 1000000000000"))
    assert status(connection) == 413


def test_an_endless_body_is_refused_while_it_arrives(connection: socket.socket) -> None:
    connection.sendall(head("Transfer-Encoding: chunked"))
    sent = 0
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    while sent < 64 << 20:
        connection.settimeout(0.001)
        try:
            if connection.recv(65536).split(b" ")[1] == b"413":
                break
        except TimeoutError:
            connection.settimeout(20)
            connection.sendall(chunk)
            sent += len(chunk)
    # Some chunks are on their way when the limit of 1 MiB is passed.
    assert sent < 32 << 20


@pytest.mark.parametrize("length", ["-1", "many", "1e3"])
def test_a_length_that_is_no_length_is_a_bad_request(connection: socket.socket, length: str) -> None:
    connection.sendall(head(f"Content-Length: {length}"))
    assert status(connection) == 400


def test_a_client_that_leaves_while_it_sends_leaves_no_trace(
    connection: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        connection.sendall(head("Content-Length: 1000") + IMAGE)
        connection.close()
        time.sleep(0.2)
    assert caplog.records == []


def test_a_client_that_leaves_before_the_answer_leaves_no_trace(
    connection: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        connection.sendall(head(f"Content-Length: {len(IMAGE)}") + IMAGE)
        connection.close()
        time.sleep(0.2)
    assert caplog.records == []


def test_slow_clients_hold_up_nobody(client: httpx.Client) -> None:
    slow = []
    for _ in range(20):
        connection = socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20)
        connection.sendall(head(f"Content-Length: {len(IMAGE)}") + IMAGE[:-1])
        slow.append(connection)
    try:
        assert client.post("/v1/models/tiny/classify", content=IMAGE).status_code == 200
        for connection in slow:
            connection.sendall(IMAGE[-1:])
            assert status(connection) == 200
    finally:
        for connection in slow:
            connection.close()


def test_one_connection_serves_many_requests_good_and_bad(client: httpx.Client) -> None:
    with httpx.Client(base_url=client.base_url, limits=httpx.Limits(max_connections=1), timeout=20) as single:
        codes = [
            single.post("/v1/models/tiny/classify", content=content).status_code
            for content in (IMAGE, b"text", IMAGE, bytes(2 << 20), IMAGE)
        ]
    assert codes == [200, 422, 200, 413, 200]


def test_threads_of_many_callers_do_not_mix_answers(client: httpx.Client) -> None:
    tones = range(0, 256, 16)
    expected = {tone: client.post("/v1/models/tiny/classify", content=grey(tone)).json()["images"] for tone in tones}
    wrong: list[int] = []

    def ask(tone: int) -> None:
        for _ in range(5):
            if client.post("/v1/models/tiny/classify", content=grey(tone)).json()["images"] != expected[tone]:
                wrong.append(tone)

    threads = [threading.Thread(target=ask, args=(tone,)) for tone in tones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def grey(tone: int) -> bytes:
    return png(np.full((3, 8, 8), tone, np.uint8))
