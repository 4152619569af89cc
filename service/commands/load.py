"""Callers that each send the same request again as soon as it is answered, in processes of their own."""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import httptools
from uvicorn.loops.auto import auto_loop_factory

# Time until all processes have connected, and in which answers are not counted yet.
CONNECT_SECONDS = 0.5
WARM_UP_SECONDS = 0.5
# How long answers are waited for when the time is over, and the pause before a lost connection is made again.
PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 0.05
LONGEST_ERROR = 500
SCHEDSTAT = Path("/proc/thread-self/schedstat")


class Address(NamedTuple):
    host: str
    port: int
    encrypted: bool


class Measured(NamedTuple):
    """What the callers of one process saw while it was counted."""

    latencies: list[float]
    """Seconds, of the answers with status 200."""
    errors: dict[str, int]
    """By what went wrong."""
    busy: float
    """The share of one core that the process itself used."""
    waited: float
    """The share of the time in which it could have run, but had no core; 0 where the system does not tell."""


def measure(
    pool: Executor, processes: int, address: Address, request: bytes, callers: int, seconds: float
) -> list[Measured]:
    """Let so many callers call for so many seconds, shared among the processes of the pool; none may be idle."""
    begin = time.time() + CONNECT_SECONDS
    shares = [callers // processes + (number < callers % processes) for number in range(processes)]
    return list(pool.map(partial(run, address, request, begin=begin, seconds=seconds), shares))


def run(address: Address, request: bytes, callers: int, begin: float, seconds: float) -> Measured:
    """The callers of one process, which begin together at the time `begin`."""
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return runner.run(_run(address, request, callers, begin, seconds))


async def _run(address: Address, request: bytes, callers: int, begin: float, seconds: float) -> Measured:
    context = ssl.create_default_context() if address.encrypted else None
    counted = time.perf_counter() + (begin - time.time()) + WARM_UP_SECONDS
    window = Window(counted, counted + seconds)
    calling = [asyncio.ensure_future(_call(address, context, request, window)) for _ in range(callers)]
    await asyncio.sleep(window.begin - time.perf_counter())
    used, waited = time.process_time(), _waited()
    await asyncio.sleep(window.end - time.perf_counter())
    used, waited = time.process_time() - used, _waited() - waited
    _, late = await asyncio.wait(calling, timeout=PATIENCE_SECONDS)
    for one in late:
        one.cancel()
        window.errors["no answer"] += 1
    return Measured(window.latencies, dict(window.errors), used / seconds, waited / seconds)


def _waited() -> float:
    """Seconds that this thread has waited for a core, as Linux counts them."""
    try:
        return int(SCHEDSTAT.read_text().split()[1]) / 1e9
    except OSError:
        return 0


class Window:
    """The time in which answers count, and those that came in it."""

    def __init__(self, begin: float, end: float) -> None:
        self.begin, self.end = begin, end
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()

    @property
    def over(self) -> bool:
        return time.perf_counter() >= self.end

    def answered(self, sent: float) -> None:
        now = time.perf_counter()
        if self.begin <= now < self.end:
            self.latencies.append(now - sent)

    def failed(self, reason: str) -> None:
        if self.begin <= time.perf_counter() < self.end:
            self.errors[reason] += 1


async def _call(address: Address, context: ssl.SSLContext | None, request: bytes, window: Window) -> None:
    """One caller, who connects again whenever the connection is lost."""
    loop = asyncio.get_running_loop()
    while not window.over:
        try:
            connect = loop.create_connection(partial(Caller, request, window), address.host, address.port, ssl=context)
            _, caller = await connect
        except OSError as error:
            window.failed(f"no connection: {error.strerror or error}")
        else:
            await caller.lost
        await asyncio.sleep(0 if window.over else PAUSE_SECONDS)


class Caller(asyncio.Protocol):
    """One connection, from the first request to the end of the time."""

    def __init__(self, request: bytes, window: Window) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request, self._window = request, window
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._waits = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end("the answer is not HTTP")

    def on_body(self, body: bytes) -> None:
        """A part of the body of an answer; only errors are read."""
        if self._parser.get_status_code() != 200 and len(self._body) < LONGEST_ERROR:
            self._body += body

    def on_message_complete(self) -> None:
        """An answer is over: send the request again."""
        self._waits = False
        status = self._parser.get_status_code()
        if status == 200:
            self._window.answered(self._sent)
        else:
            self._window.failed(f"{status} {self._body[:LONGEST_ERROR].decode(errors='replace')}")
        if self._window.over or not self._parser.should_keep_alive():
            self._end()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waits:
            self._window.failed(f"the connection was closed before the answer{f': {exc}' if exc else ''}")
        if not self.lost.done():
            self.lost.set_result(None)

    def _send(self) -> None:
        self._body, self._waits = b"", True
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def _end(self, reason: str | None = None) -> None:
        if reason:
            self._window.failed(reason)
        self._waits = False
        self._transport.close()


def combined(parts: Iterable[Measured]) -> Measured:
    """All processes together; of their shares the largest, for the slowest is what would hold them back."""
    parts = list(parts)
    errors: Counter[str] = Counter()
    for part in parts:
        errors.update(part.errors)
    latencies = sorted(latency for part in parts for latency in part.latencies)
    return Measured(latencies, dict(errors), max(part.busy for part in parts), max(part.waited for part in parts))
