"""Callers at the same time, each on a connection that it keeps, that check the status of every answer."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.soak.asks import Ask

ANSWER_SECONDS = 60.0
# One request in so many is begun and left, half of these after they were sent whole.
LEAVES = 50


@dataclass
class Tally:
    """What became of the requests, by kind."""

    right: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    """Those whose caller went away, as was meant: they have no answer."""
    complaints: list[str] = field(default_factory=list)
    """Of the first that were answered wrongly, or not at all."""

    @property
    def sent(self) -> int:
        return self.right.total() + self.wrong.total() + self.left.total()

    def lose(self, ask: Ask, what: str) -> None:
        self.wrong[ask.kind] += 1
        if len(self.complaints) < 10:
            head = ask.message[:120].split(b"\r\n")[0].decode()
            self.complaints.append(f"{ask.kind}: {head}: {what}, expected {sorted(ask.statuses)}")


class Connection:
    """HTTP/1.1 as far as this service speaks it: every answer has a length, or no body."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, message: bytes) -> tuple[int, bytes]:
        """Status and body. Raises `OSError` or `EOFError` if there is no whole answer."""
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        self._writer.write(message)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0] or 0)
        body = await self._reader.readexactly(length)
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), body

    async def leave(self, message: bytes) -> None:
        """Send this, and go away."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(message)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def call(port: int, messages: Iterator[tuple[int, Ask]], tally: Tally, end: float) -> None:
    """One caller: the next numbered request when the last one is answered, until there are none or time is up."""
    connection = Connection(port)
    for number, ask in messages:
        if time.monotonic() > end:
            break
        if number % LEAVES == 0:
            whole = number % (2 * LEAVES) == 0
            await connection.leave(ask.message if whole else ask.message[: len(ask.message) // 2])
            tally.left[ask.kind] += 1
            continue
        try:
            status, body = await asyncio.wait_for(connection.ask(ask.message), ANSWER_SECONDS)
        except (OSError, EOFError, TimeoutError) as error:
            tally.lose(ask, repr(error))
            connection.close()
            continue
        if status in ask.statuses:
            tally.right[ask.kind] += 1
        else:
            tally.lose(ask, f"{status} {body[:200].decode(errors='replace')}")
    connection.close()
