"""Calls between the processes of one service, over a Unix socket that only their user can open.

A frame is two lengths (4 bytes each, big-endian), an object in JSON, and bytes: tensors need not become numbers. Both
ends may call, and calls are answered in whatever order they end.
"""

import asyncio
import contextlib
import logging
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import orjson

from service.errors import BadRequestError, ServiceError, describe

logger = logging.getLogger("reslens")

_LENGTHS = struct.Struct("!II")
# The statistics of one batch of 32 are 14 MB for a ResNet-50.
MAX_FRAME_BYTES = 256 << 20
# What waits to be sent beyond it is not sent at all, where that may be lost.
MAX_WAITING_BYTES = 64 << 20
# What a process that ended has told before may still take.
LAST_SECONDS = 5.0


class Answer(NamedTuple):
    result: Any
    """What JSON can carry."""
    payload: bytes = b""


Handler = Callable[[dict[str, Any], bytes], Awaitable[Answer]]


class ChannelClosedError(ServiceError):
    """The other process is gone, or is not there yet."""

    status = 503


class RelayedError(ServiceError):
    """An error of another process, with its status."""

    def __init__(self, message: str, status: int = 500, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class Channel:
    """One end of a connection; `run` it until the other end is gone. Belongs to one event loop."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handlers: Mapping[str, Handler]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handlers = handlers
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._number = 0
        self.closed = False

    async def call(self, what: str, payload: bytes = b"", /, **arguments: Any) -> Answer:
        """Have the other process do something, and wait for it.

        Raises `RelayedError` for what went wrong there, `ChannelClosedError`, or `BadRequestError` for what JSON cannot
        carry.
        """
        if self.closed:
            raise ChannelClosedError("another process of the service is gone: try again")
        self._number += 1
        number = self._number
        future = self._pending[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"id": number, "call": what, "arguments": arguments}, payload)
            await self._writer.drain()
            answer: Answer = await future
            return answer
        except ConnectionError as error:
            raise ChannelClosedError("another process of the service is gone: try again") from error
        finally:
            self._pending.pop(number, None)

    def tell(self, what: str, payload: bytes = b"", /, **arguments: Any) -> bool:
        """Have it do something, and never know; false when too much waits to be sent."""
        if self.closed or self._writer.transport.get_write_buffer_size() + len(payload) > MAX_WAITING_BYTES:
            return False
        self._send({"call": what, "arguments": arguments}, payload)
        return True

    async def run(self) -> None:
        """Answer calls until the other end closes, or sends what is no frame."""
        try:
            while True:
                message, payload = await self._receive()
                if "call" in message:
                    task = asyncio.create_task(self._answer(message, payload))
                    self._answering.add(task)
                    task.add_done_callback(self._answering.discard)
                else:
                    self._settle(message, payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            # What was told before the end is still to be done.
            self._fail_pending()
            if self._answering:
                await asyncio.wait(self._answering, timeout=LAST_SECONDS)
        finally:
            self.close()

    async def flush(self) -> None:
        """Wait until what was told is sent."""
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def close(self) -> None:
        """Break off: calls that wait fail."""
        self._fail_pending()
        self._writer.close()
        for task in self._answering:
            task.cancel()

    def _fail_pending(self) -> None:
        self.closed = True
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ChannelClosedError("another process of the service ended: try again"))

    async def _receive(self) -> tuple[dict[str, Any], bytes]:
        head, payload = _LENGTHS.unpack(await self._reader.readexactly(_LENGTHS.size))
        if head + payload > MAX_FRAME_BYTES:
            raise ConnectionError(f"a frame of {head + payload:,} bytes")
        message = orjson.loads(await self._reader.readexactly(head))
        return message, await self._reader.readexactly(payload)

    def _send(self, message: dict[str, Any], payload: bytes) -> None:
        try:
            head = orjson.dumps(message)
        except orjson.JSONEncodeError as error:  # a TypeError, of numbers beyond 64 bits, or of text that is not UTF-8
            raise BadRequestError(f"the request has what cannot be passed on to another process: {error}") from error
        self._writer.writelines((_LENGTHS.pack(len(head), len(payload)), head, payload))

    def _settle(self, message: dict[str, Any], payload: bytes) -> None:
        future = self._pending.get(message["id"])
        if future is None or future.done():  # whoever asked has gone
            return
        if "error" in message:
            future.set_exception(RelayedError(**message["error"]))
        else:
            future.set_result(Answer(message["result"], payload))

    async def _answer(self, message: dict[str, Any], payload: bytes) -> None:
        answer, reply = Answer(None), {"id": message.get("id")}
        try:
            answer = await self._handlers[message["call"]](message["arguments"], payload)
            reply["result"] = answer.result
        except Exception as error:
            status, text, retry_after = describe(error)
            if status == 500:
                logger.exception("%s failed in another process", message["call"])
            reply["error"] = {"message": text, "status": status, "retry_after": retry_after}
        if "id" in message and not self.closed:
            try:
                self._send(reply, answer.payload)
            except BadRequestError:  # ours, not the request's; else the caller would wait for ever
                logger.exception("the answer to %s cannot be passed on", message["call"])
                self._send({"id": message["id"], "error": {"message": "internal error"}}, b"")


async def connect(path: str, handlers: Mapping[str, Handler]) -> Channel:
    """Open a channel to the process that listens at `path`; raises OSError when none does."""
    return Channel(*await asyncio.open_unix_connection(path), handlers)
