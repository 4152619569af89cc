"""Connections, with limits on how long the head of a request may be, and on the time that head and body may take."""

from asyncio import TimerHandle, Transport
from functools import partial
from typing import ClassVar

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.errors import error_response
from service.writing import Answering

# The key in a request's scope under which lies a function without arguments: whether its client has left.
GONE = "reslens.gone"
# …and under which another lies: whether all of its body has come.
WHOLE = "reslens.whole"
# …and under which lies whether its body came too slowly: then nothing more of it is read.
STALLED = "reslens.stalled"
# Bytes of a body in a second that are too few.
SLOWEST = 1000
TOO_LONG = "the headers of the request are too long: send fewer or shorter ones"
NO_WEBSOCKETS = "there are no websockets here: send plain HTTP requests"
# Of a request to go on in another protocol.
UPGRADING = (b"connection", b"upgrade", b"http2-settings")


class Connection(HttpToolsProtocol):
    """A connection of uvicorn's that keeps no more of a head, and waits no longer for a request, than it is told to.

    What follows a chunked body as a trailer counts as its head. Subclasses set the limits.
    """

    max_head_bytes: ClassVar[int]
    head_seconds: ClassVar[float]
    body_seconds: ClassVar[float]

    _between = True  # two messages
    _idle_since = 0.0
    _idle_timer: TimerHandle | None = None
    _head_bytes = 0
    _body_bytes = 0  # of the time that the timer of the body runs
    _unread = 0  # bytes since the parser last had something to say: a name or a value that does not end
    _in_head = True
    _deadline: TimerHandle | None = None
    _body_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.head_seconds, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        self._end_body_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        self._feed(data)
        if self.transport.is_closing():
            return
        too_long = self._head_bytes > self.max_head_bytes and self.app is not _too_long
        if too_long or self._unread > self.max_head_bytes:
            self._refuse()
        elif self._in_head or self._is_idle():
            if self._deadline is None:
                self._deadline = self.loop.call_later(self.head_seconds, self.transport.close)
        elif self.cycle.more_body and self._body_timer is None:
            self._body_timer = self.loop.call_later(self.body_seconds, self._check_body)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._between = False
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._unread = 0
        self._head_bytes += len(name) + len(value)
        if self._head_bytes <= self.max_head_bytes:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unread = 0
        if self._upgrades():
            return  # to come again without
        self._in_head = False
        self._end_deadline()
        if self._head_bytes + len(self.url) > self.max_head_bytes:
            self.app = _too_long  # for the rest of this connection, which is short
        super().on_headers_complete()
        self.cycle.transport = Answering(self.transport, self.cycle)  # type: ignore[assignment]
        # What is made of the request may ask without waiting for a message.
        self.scope[GONE] = partial(getattr, self.cycle, "disconnected")  # type: ignore[literal-required]
        self.scope[WHOLE] = partial(_is_whole, self.cycle)  # type: ignore[literal-required]

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        if self._upgrades():
            return
        self._between = True
        self._end_body_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn does, but with a timer that is let run, and looks when it ends whether it was right to."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._check_idle)

    def _check_idle(self) -> None:
        """Close a connection on which nothing came for so long; a head that has begun has a time of its own."""
        end = self._idle_since + self.timeout_keep_alive
        if not self._is_waiting():
            end = self.loop.time() + self.timeout_keep_alive
        if end > self.loop.time():
            self._idle_timer = self.loop.call_at(end, self._check_idle)
        else:
            self.transport.close()

    def _feed(self, data: bytes) -> None:
        """As uvicorn does, but for requests to go on in another protocol: the parser leaves off after their head."""
        while data:  # one packet may hold many of them
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade(data[upgrade.args[0] :])
            except httptools.HttpParserError:
                message = "Invalid HTTP request received."
                self.logger.warning(message)
                self.send_400_response(message)
                return

    def _upgrades(self) -> bool:
        # CONNECT is an upgrade for the parser too, and an error for uvicorn.
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _without_upgrade(self, rest: bytes) -> bytes:
        """The same request as if it had not asked, and what follows, for a new parser; for HTTP that is the answer."""
        if self._get_upgrade() == b"websocket":
            self.app = _no_websockets
        head = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url)]
        head += [b"%b: %b" % field for field in self.headers if field[0] not in UPGRADING]
        self.parser = httptools.HttpRequestParser(self)
        return b"\r\n".join((*head, b"", rest))

    def _refuse(self) -> None:
        if self._in_head and self._is_idle():
            body = b'{"error":"%s"}' % TOO_LONG.encode()
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
                b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
        self.transport.close()

    def _check_body(self) -> None:
        """Whether enough of the body has come since the last time, if anybody wants it."""
        self._body_timer = None
        if self._is_idle() or not self.cycle.more_body:
            return
        enough = self._body_bytes >= SLOWEST * self.body_seconds or self.flow.read_paused
        self._body_bytes = 0
        if enough:
            self._body_timer = self.loop.call_later(self.body_seconds, self._check_body)
        else:
            # Who waits for more of it gets nothing, and is to look here.
            self.scope[STALLED] = True  # type: ignore[literal-required]
            self.cycle.keep_alive = False
            self.cycle.message_event.set()

    def _is_idle(self) -> bool:
        """Whether no request waits for its answer: what comes now is a head, or the rest of a body that was refused."""
        return self.cycle is None or self.cycle.response_complete

    def _is_waiting(self) -> bool:
        """Whether nothing of another request has come."""
        return self._is_idle() and self._deadline is None

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_body_timer(self) -> None:
        self._body_bytes = 0
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None


def _is_whole(cycle: RequestResponseCycle) -> bool:
    return not cycle.more_body


async def _too_long(scope: Scope, receive: Receive, send: Send) -> None:
    await error_response(431, TOO_LONG, {"Connection": "close"})(scope, receive, send)


async def _no_websockets(scope: Scope, receive: Receive, send: Send) -> None:
    await error_response(400, NO_WEBSOCKETS, {"Connection": "close"})(scope, receive, send)
