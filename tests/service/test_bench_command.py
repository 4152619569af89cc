"""`python -m service bench`: its numbers against a server whose speed is known, and the command against a service."""

import asyncio
import contextlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from service.__main__ import main
from service.commands import bench
from service.commands.load import Address, Measured, combined, measure, run
from tests import bundles
from tests.service.processes import ROOT, process

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
DELAY = 0.05
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def response(status: str, body: bytes = b"{}", *fields: bytes) -> bytes:
    return b"\r\n".join([f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}".encode(), *fields, b"", body])


@contextlib.contextmanager
def server(answer: Answer) -> Iterator[Address]:
    """A server in a thread that does with every connection what it is told."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(answer, "127.0.0.1", 0), loop).result()
    try:
        yield Address(*listening.sockets[0].getsockname(), encrypted=False)
    finally:
        loop.call_soon_threadsafe(listening.close)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.2), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def answering(*answers: bytes, delay: float = 0, close: bool = False) -> Answer:
    """To each request the next of the answers, over and over, after a delay."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                for content in answers:
                    await reader.readuntil(b"\r\n\r\n")
                    await asyncio.sleep(delay)
                    writer.write(content)
                    await writer.drain()
                    if close:
                        return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    return answer


def called(answer: Answer, callers: int = 4, seconds: float = 1.0) -> Measured:
    with server(answer) as address:
        return run(address, REQUEST, callers, time.time() + 0.1, seconds)


def test_each_caller_waits_for_its_answer() -> None:
    measured = called(answering(response("200 OK"), delay=DELAY))
    assert measured.errors == {}
    assert min(measured.latencies) >= DELAY
    assert 0.6 * 4 / DELAY < len(measured.latencies) <= 4 / DELAY
    assert measured.busy < 0.5


def test_a_server_that_closes_after_each_answer_is_called_again() -> None:
    measured = called(answering(response("200 OK", b"{}", b"Connection: close"), close=True), callers=2)
    assert measured.errors == {}
    assert len(measured.latencies) > 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (response("503 Service Unavailable", b'{"error": "busy"}'), '503 {"error": "busy"}'),
        (b"", "the connection was closed before the answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "the connection was closed before the answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "the answer is not HTTP"),
    ],
)
def test_what_is_no_answer_is_an_error(answer: bytes, reason: str) -> None:
    measured = called(answering(answer, delay=0.01, close=b"503" not in answer), callers=1, seconds=0.5)
    assert measured.latencies == []
    assert measured.errors.keys() == {reason}


def test_where_nobody_listens() -> None:
    measured = run(Address("127.0.0.1", 1, encrypted=False), REQUEST, 1, time.time(), 0.3)
    assert [reason.partition(":")[0] for reason in measured.errors] == ["no connection"]


def test_callers_are_shared_among_the_processes() -> None:
    seen = []

    def count(*arguments: Any, **_: Any) -> Measured:
        seen.append(arguments[-1])
        return Measured([], {}, 0.0, 0.0)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr("service.commands.load.run", count)
        measure(pool, 3, Address("", 0, encrypted=False), REQUEST, 8, 1)
    assert sorted(seen) == [2, 3, 3]


def test_a_row_says_what_was_measured() -> None:
    latencies = np.random.default_rng(0).exponential(0.01, 1001)
    parts = [
        Measured(latencies[:500].tolist(), {"a": 1}, 0.2, 0.3),
        Measured(latencies[500:].tolist(), {"a": 2}, 0.9, 0.0),
    ]
    row = bench._row(8, 2, combined(parts), 2.0)
    assert row["per_second"] == 500.5
    for name, share in bench.QUANTILES.items():
        assert row[name] == pytest.approx(np.quantile(latencies, share) * 1e3, rel=0.01)
    assert row["errors"] == {"a": 3}
    assert row["client_is_the_bottleneck"]
    idle = bench._row(1, 1, combined([Measured([0.1], {}, 0.2, 0.0)]), 2.0)
    for rows, said in (([row], True), ([idle], False)):
        console = Console(file=io.StringIO(), width=80)
        bench.draw(console, "a model", rows)
        drawn = " ".join(console.file.getvalue().split())
        assert ("another machine" in drawn) == said
        assert ("waited for a processor 30% of the time" in drawn) == said


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root, "tiny", bundles.Tiny.random(1))
    with process(root, WORKERS=0) as address:
        yield f"http://{address}"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("kind", ["binary", "json", "jpeg"])
def test_a_service_answers_every_kind(url: str, kind: str) -> None:
    done = command(url, "--kind", kind, "--seconds", "0.3", "--callers", "3", "--processes", "2")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["model"], answer["kind"]) == ("tiny", kind)
    (row,) = answer["rows"]
    assert (row["callers"], row["client_processes"]) == (3, 2)
    assert row["requests"] > 0
    assert row["errors"] == {}
    assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]


def test_nothing_to_measure(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status, complaint in (
        (("http://127.0.0.1:1",), 1, "is a service there?"),
        ((url, "--model", "absent"), 1, "choose from tiny"),
        (("nowhere",), 2, "is not the URL"),
        ((url, "--callers", "0"), 2, "--callers"),
        ((url, "--seconds", "0"), 2, "--seconds"),
        ((url, "--key-file", str(tmp_path / "absent")), 2, "absent"),
    ):
        try:
            ended: object = main(["bench", *arguments])
        except SystemExit as error:  # with a message it is printed, and the status is 1
            ended = 1 if isinstance(error.code, str) else error.code
            print(error.code, file=sys.stderr)
        out, err = capsys.readouterr()
        assert (ended, out) == (status, "")
        assert complaint in err


def test_where_every_request_is_refused() -> None:
    manifest = {"inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 8, 8]}]}
    described = response("200 OK", json.dumps({"manifest": manifest}).encode())
    refused = response("429 Too Many Requests", b'{"error": "wait"}')

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                writer.write(described if head.startswith(b"GET") else refused)
        writer.close()

    with server(answer) as address:
        done = command(f"http://127.0.0.1:{address.port}", "--model", "x", "--seconds", "0.3", "--callers", "1")
    assert done.returncode == 1, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["p50_ms"] is None
    assert row["errors"].keys() == {'429 {"error": "wait"}'}
