"""Requests whose heads came before: what a head means is found out once.

A client says the same before each of its requests. Parsing it again, and making objects of it, takes longer than all
else that is done for a small one.
"""

from asyncio import Event
from collections.abc import Callable, Coroutine
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import Scope

END = b"\r\n\r\n"
# Heads that are remembered, and how long one may be.
HEADS = 1024
LONGEST_HEAD = 2048
# In each of these there is something new every time: they would only push the others out.
UNIQUE = frozenset({b"x-request-id", b"traceparent", b"idempotency-key"})
# What of a scope belongs to the head, and not to the connection.
OF_HEAD = ("type", "asgi", "http_version", "scheme", "root_path", "headers", "method", "path", "raw_path")

Write = Callable[[Response], None]
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

    def find(self, data: bytes) -> tuple[Plain, bytes] | None:
        """What the head means, and the body, if the data is one whole request with a head that is known."""
        end = data.find(END, 0, LONGEST_HEAD)
        plain = self._known.get(data[:end])
        if plain is None or len(data) != end + len(END) + plain.length:
            return None
        return plain, data[end + len(END) :]

    def remember(self, data: bytes, scope: Scope) -> None:
        """Learn from one whole request that was parsed, and what came of it; its connection is to be kept."""
        end = data.find(END, 0, LONGEST_HEAD)
        names = [name for name, _ in scope["headers"]]
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if end < 0 or not UNIQUE.isdisjoint(names) or len(lengths) != 1:
            return
        answer = self._find(scope)
        length = int(lengths[0])
        if answer is None or len(data) != end + len(END) + length:
            return
        if len(self._known) >= HEADS:
            del self._known[next(iter(self._known))]
        of_head = {key: scope[key] for key in (*OF_HEAD, "query_string")}
        self._known[data[:end]] = Plain(of_head, length, answer)


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
