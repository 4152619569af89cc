"""Connections, with limits on the head of a request: how long it may be, and how long it may take."""

from asyncio import TimerHandle, Transport
from functools import partial
from typing import ClassVar

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import error_response

# The key in a request's scope under which lies a function without arguments: whether its client has left.
GONE = "reslens.gone"
TOO_LONG = "the headers of the request are too long: send fewer or shorter ones"


class Connection(HttpToolsProtocol):
    """A connection of uvicorn's that keeps no more of a head, and waits no longer for it, than it is told to.

    What follows a chunked body as a trailer counts too. Use a subclass that sets both limits: `limited`.
    """

    max_head_bytes: ClassVar[int]
    head_seconds: ClassVar[float]

    _head_bytes = 0
    _unread = 0  # bytes since the parser last had something to say: a name or a value that does not end
    _in_head = True
    _deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.head_seconds, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        too_long = self._head_bytes > self.max_head_bytes and self.app is not _too_long
        if too_long or self._unread > self.max_head_bytes:
            self._refuse()
        elif self._deadline is None and (self._in_head or self._is_idle()):
            self._deadline = self.loop.call_later(self.head_seconds, self.transport.close)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._unread = 0
        self._head_bytes += len(name) + len(value)
        if self._head_bytes <= self.max_head_bytes:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unread = 0
        self._in_head = False
        self._end_deadline()
        if self._head_bytes + len(self.url) > self.max_head_bytes:
            self.app = _too_long  # for the rest of this connection, which is short
        super().on_headers_complete()
        # What is made of the request may ask without waiting for a message.
        self.scope[GONE] = partial(getattr, self.cycle, "disconnected")  # type: ignore[literal-required]

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        super().on_message_complete()

    def _refuse(self) -> None:
        if self._in_head and self._is_idle():
            body = b'{"error":"%s"}' % TOO_LONG.encode()
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
                b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
        self.transport.close()

    def _is_idle(self) -> bool:
        """Whether no request waits for its answer: what comes now is a head, or the rest of a body that was refused."""
        return self.cycle is None or self.cycle.response_complete

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def limited(max_head_bytes: int, head_seconds: float) -> type[Connection]:
    """The kind of connection with these limits."""
    return type("LimitedConnection", (Connection,), {"max_head_bytes": max_head_bytes, "head_seconds": head_seconds})


async def _too_long(scope: Scope, receive: Receive, send: Send) -> None:
    await error_response(431, TOO_LONG, {"Connection": "close"})(scope, receive, send)
