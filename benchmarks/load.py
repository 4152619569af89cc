"""A load generator in a process of its own: `python -m benchmarks.load HOST PORT REQUEST_FILE CALLERS SECONDS`.

Each caller keeps one connection and sends the same request again as soon as it is answered. Prints one JSON line.
"""

import asyncio
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import cast

import uvloop


class Caller(asyncio.Protocol):
    """One connection in a closed loop until the deadline."""

    def __init__(self, request: bytes, deadline: float, done: asyncio.Future[None]) -> None:
        self.request, self.deadline, self.done = request, deadline, done
        self.latencies: list[float] = []
        self._received = b""
        self._expected: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._expected is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            try:
                self._expected = end + 4 + _content_length(self._received[:end])
            except ConnectionError as error:
                self.done.set_exception(error)
                self._transport.close()
                return
        if len(self._received) < self._expected:
            return
        self.latencies.append(time.perf_counter() - self._sent)
        if time.perf_counter() >= self.deadline:
            self._transport.close()
            self.done.set_result(None)
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        self._received, self._expected = b"", None
        self._sent = time.perf_counter()
        self._transport.write(self.request)


def _content_length(head: bytes) -> int:
    status, *fields = head.split(b"\r\n")
    if b" 200 " not in status:
        raise ConnectionError(f"the server answered {status.decode()}")
    lengths = [field.split(b":")[1] for field in fields if field.lower().startswith(b"content-length:")]
    return int(lengths[0])


async def load(host: str, port: int, request: bytes, callers: int, seconds: float) -> list[float]:
    """Latencies of every request answered, in seconds."""
    loop = asyncio.get_running_loop()
    deadline = time.perf_counter() + seconds
    running = []
    for _ in range(callers):
        done: asyncio.Future[None] = loop.create_future()
        _, caller = await loop.create_connection(partial(Caller, request, deadline, done), host, port)
        running.append((caller, done))
    await asyncio.gather(*(done for _, done in running))
    return [latency for caller, _ in running for latency in caller.latencies]


def main() -> None:
    """Run as a program."""
    host, port, file, callers, seconds = sys.argv[1:]
    request = Path(file).read_bytes()
    started = time.perf_counter()
    latencies = sorted(uvloop.run(load(host, int(port), request, int(callers), float(seconds))))
    elapsed = time.perf_counter() - started
    quantile = {name: latencies[int(share * (len(latencies) - 1))] for name, share in (("p50", 0.5), ("p99", 0.99))}
    print(json.dumps({"requests": len(latencies), "per_second": len(latencies) / elapsed, **quantile}))


if __name__ == "__main__":
    main()
