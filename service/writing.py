"""How answers go over the wire: each in one packet."""

from asyncio import Transport

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

CLOSE = (b"connection", b"close")

Headers = list[tuple[bytes, bytes]]


class Answering:
    """The transport of one answer: keeps its head back until its body comes, so that both are one packet.

    Two are two system calls here and may wake the client twice, which is a good part of what a small answer costs.
    """

    def __init__(self, transport: Transport, cycle: RequestResponseCycle) -> None:
        self._transport = transport
        self._cycle = cycle
        self._begun = False
        self._kept = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if self._kept:
            self._transport.writelines((self._kept, data))
            self._kept = b""
        elif self._is_head() and self._cycle.expected_content_length and self._cycle.scope["method"] != "HEAD":
            self._kept = data  # more is certain to come
        else:
            self._transport.write(data)

    def close(self) -> None:
        if self._kept:
            self._transport.write(self._kept)
            self._kept = b""
        self._transport.close()

    def _is_head(self) -> bool:
        if self._begun or not self._cycle.response_started:  # what comes before is "100 Continue"
            return False
        self._begun = True
        return True


def written(response: Response, defaults: Headers, keep_alive: bool) -> tuple[bytes, bool]:
    """An answer as it goes over the wire, and whether its connection stays; `defaults` are headers of all answers."""
    parts: list[bytes | memoryview] = [STATUS_LINE[response.status_code]]
    closes = False
    for header in (*defaults, *response.raw_headers):
        closes = closes or header == CLOSE
        parts += (header[0], b": ", header[1], b"\r\n")
    if not keep_alive and not closes:
        parts.append(b"connection: close\r\n")
    parts += (b"\r\n", response.body)
    return b"".join(parts), keep_alive and not closes
