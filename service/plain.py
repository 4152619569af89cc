"""Requests whose heads came before: what a head means is found out once.

A client says the same before each of its requests. Parsing it again, and making objects of it, takes longer than all
else that is done for a small one.
"""

from asyncio import Event, Task, TimerHandle
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import ClassVar, NamedTuple

from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.connections import GONE, Connection
from service.writing import written

END = b"\r\n\r\n"
# Heads that are remembered, and how long one may be.
HEADS = 1024
LONGEST_HEAD = 2048
# In each of these there is something new every time: they would only push the others out.
UNIQUE = frozenset({b"x-request-id", b"traceparent", b"idempotency-key"})
# What of a scope belongs to the head, and not to the connection.
OF_HEAD = (
    "type",
    "asgi",
    "http_version",
    "scheme",
    "root_path",
    "headers",
    "method",
    "path",
    "raw_path",
    "query_string",
)

# The rest of a request whose head is known is waited for so long before the parser gets it, and so many bytes in all.
HOLD_SECONDS = 0.05
MOST_HELD = 1 << 18

Write = Callable[[Response], Awaitable[None]]
# Answers a request with this scope and body, by calling what it is given.
Answer = Callable[[Scope, bytes, Write], Coroutine[object, object, None]]
# How requests with this scope are answered; None if they are not plain.
Find = Callable[[Scope], Answer | None]


class Plain(NamedTuple):
    """What the bytes before a body mean."""

    scope: Scope
    length: int
    """Bytes of the body."""
    answer: Answer


class Heads:
    """The last heads that came, by their bytes: parsing the same ones again would give the same."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._known: dict[bytes, Plain] = {}

    def find(self, data: bytes) -> tuple[Plain, int] | None:
        """What the head at the start of the data means, and where it ends; None if it is not known."""
        end = data.find(END, 0, LONGEST_HEAD)
        if end < 0:  # what has come may be part of a longer head
            return None
        plain = self._known.get(data[:end])
        return None if plain is None else (plain, end + len(END))

    def remember(self, first: bytes, size: int, scope: Scope) -> None:
        """Learn from one request that was parsed, of `size` bytes, what the head in the first of them means.

        Its connection is to be one that is kept, and no other request to begin in these bytes.
        """
        end = first.find(END, 0, LONGEST_HEAD)
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if end < 0 or len(lengths) != 1 or not UNIQUE.isdisjoint(name for name, _ in scope["headers"]):
            return
        length = int(lengths[0])
        answer = self._find(scope)
        if answer is None or size != end + len(END) + length:
            return
        if len(self._known) >= HEADS:
            del self._known[next(iter(self._known))]
        self._known[first[:end]] = Plain({key: scope[key] for key in OF_HEAD}, length, answer)


class PlainCycle:
    """One of these requests and its answer, as far as uvicorn asks."""

    more_body = False
    message_event = Event()
    """Nobody waits for more of the body."""

    def __init__(self) -> None:
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False

    def gone(self) -> bool:
        """Whether the client has left."""
        return self.disconnected


class PlainConnection(Connection):
    """A connection that hands plain requests, whose heads came before, past its parser and ASGI. Use `limited`."""

    heads: ClassVar[Heads]

    _first = b""  # data of a request that the parser sees
    _size = 0  # bytes of it
    _previous: RequestResponseCycle | None = None
    _held = b""  # of a request that the parser need not see, if the rest comes
    _hold_timer: TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_go()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # The timer goes on: slow bodies are for the parser, which has times for them.
        data, self._held = self._held + data, b""
        if self._between and self._is_idle() and not self.flow.write_paused:
            if self._take_plain(data):
                return
            self._let_go()
            self._first, self._size, self._previous = data, 0, self.cycle
        self._size += len(data)
        super().data_received(data)
        if self._first and self._between:
            if self.cycle is not self._previous and self._is_plain():
                self.heads.remember(self._first, self._size, self.scope)  # type: ignore[arg-type]
            self._first = b""

    def shutdown(self) -> None:
        if self._held:  # a request has begun
            super().data_received(self._let_go())
        super().shutdown()

    def _take_plain(self, data: bytes) -> bool:
        """Whether this is a request with a known head, which the parser need not see: if so, begin to answer it."""
        found = self.heads.find(data)
        if found is None:
            return False
        plain, start = found
        missing = start + plain.length - len(data)
        if missing == 0:
            self._let_go()
            self._answer_plain(plain, data[start:])
        elif missing > 0 and start + plain.length <= MOST_HELD:
            self._held = data
            self._end_deadline()
            if self._hold_timer is None:
                self._hold_timer = self.loop.call_later(HOLD_SECONDS, self._hold_no_longer)
        else:
            return False
        return True

    def _let_go(self) -> bytes:
        held, self._held = self._held, b""
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        return held

    def _hold_no_longer(self) -> None:
        """The rest does not come at once: it has the time that the parser gives to others."""
        super().data_received(self._let_go())

    def _is_waiting(self) -> bool:
        return super()._is_waiting() and not self._held

    def _answer_plain(self, plain: Plain, body: bytes) -> None:
        """Begin to answer a request that the parser never sees; one that comes meanwhile waits, as uvicorn lets it."""
        self._end_deadline()
        cycle = PlainCycle()
        self.cycle = cycle  # type: ignore[assignment]
        scope = {**plain.scope, "client": self.client, "server": self.server, GONE: cycle.gone}
        task = self.loop.create_task(plain.answer(scope, body, partial(self._send_plain, cycle)))
        task.add_done_callback(partial(self._end_plain, cycle))
        self.tasks.add(task)

    def _end_plain(self, cycle: PlainCycle, task: Task[None]) -> None:
        """Nobody waits for ever: what was cut off, or failed where nothing should, is answered as uvicorn does."""
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.logger.error("Exception in ASGI application\n", exc_info=error)
        if not cycle.response_complete:
            cycle.keep_alive = False
            self._write_plain(cycle, PlainTextResponse("Internal Server Error", 500))

    async def _send_plain(self, cycle: PlainCycle, response: Response) -> None:
        self._write_plain(cycle, response)

    def _write_plain(self, cycle: PlainCycle, response: Response) -> None:
        cycle.response_complete = True
        if cycle.disconnected:
            return
        message, stays = written(response, self.server_state.default_headers, cycle.keep_alive)
        self.transport.write(message)
        if not stays:
            self.transport.close()
        self.on_response_complete()

    def _is_plain(self) -> bool:
        """Whether the last request came whole, alone, and on a connection that is kept."""
        kept = self.cycle.keep_alive and not self.transport.is_closing() and self.app is self.config.loaded_app
        return kept and not self.cycle.more_body and not self.pipeline


def nothing(_: Scope) -> None:
    """No request is plain."""


def limited(
    max_head_bytes: int, head_seconds: float, body_seconds: float, find: Find = nothing
) -> type[PlainConnection]:
    """The kind of connection with these limits; `find` says which requests are plain."""
    return type(
        "LimitedConnection",
        (PlainConnection,),
        {
            "max_head_bytes": max_head_bytes,
            "head_seconds": head_seconds,
            "body_seconds": body_seconds,
            "heads": Heads(find),
        },
    )
