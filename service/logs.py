"""Lines of the log, text for people or JSON for machines, each with the id of the request that it tells of."""

import logging
import random
import string
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import orjson

Format = Literal["text", "json"]

access = logging.getLogger("reslens.access")

# The key in a request's scope under which its id lies.
REQUEST_ID = "reslens.request_id"
# …and under which the name of whose key came with it lies.
CALLER = "reslens.caller"
# What may stand in an id that a client chose: nothing that could end a line, a field or a header.
_ID_CHARACTERS = (string.ascii_letters + string.digits + "-_.:/=+").encode()
_ID_LENGTH = 128
_HEXADECIMAL = frozenset("0123456789abcdef")


class RequestIdentity(NamedTuple):
    """By what a request is known in the log: its id, the W3C `traceparent` that came with it, unread, and its span."""

    id: str
    traceparent: str
    trace_id: str = ""
    span_id: str = ""
    """Both empty where no spans are made."""

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> "RequestIdentity":
        """The id that the client gave, or a random one if it gave none or one that is not fit for a log."""
        chosen = traceparent = b""
        for name, value in headers:
            if name == b"x-request-id":
                chosen = value
            elif name == b"traceparent":
                traceparent = value
        fit = 0 < len(chosen) <= _ID_LENGTH and not chosen.translate(None, _ID_CHARACTERS)
        return cls(chosen.decode() if fit else format(random.getrandbits(128), "032x"), traceparent.decode("latin-1"))

    def trace(self) -> dict[str, str]:
        """Trace, span and parent span, as far as there are any."""
        fields = self._parent()
        return fields | {"trace_id": self.trace_id, "span_id": self.span_id} if self.span_id else fields

    def _parent(self) -> dict[str, str]:
        """Trace and parent span of `00-<32 hex>-<16 hex>-<2 hex>`, neither all zero; empty if no valid header came."""
        fields = self.traceparent.split("-")
        lengths = [len(field) for field in fields[:4]]
        if lengths != [2, 32, 16, 2] or fields[0] == "ff" or (fields[0] == "00" and len(fields) > 4):
            return {}
        version, trace, span, flags = fields[:4]
        if not _HEXADECIMAL.issuperset(version + trace + span + flags) or not trace.strip("0") or not span.strip("0"):
            return {}
        return {"trace_id": trace, "parent_span_id": span}


CURRENT: ContextVar[RequestIdentity | None] = ContextVar("request", default=None)
"""The request that the running code works for; threads that work for it see it too."""


def configure(format: Format, access_log: bool) -> None:  # noqa: A002
    """Send every line of the process, in this format, to stderr (text) or stdout (JSON)."""
    handler = logging.StreamHandler(sys.stdout if format == "json" else sys.stderr)
    handler.setFormatter(JsonLines() if format == "json" else TextLines("%(asctime)s %(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("reslens").setLevel(logging.INFO if format == "json" else logging.WARNING)
    access.setLevel(logging.INFO if access_log else logging.WARNING)


class TextLines(logging.Formatter):
    """A line of text, with the id of its request at the end."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        line = super().formatMessage(record)
        request = CURRENT.get()
        return f"{line} [request {request.id}]" if request else line


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message; those of the request; and the fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := CURRENT.get():
            line |= {"request_id": request.id, **request.trace()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except orjson.JSONEncodeError:  # a text that is no Unicode, such as a half of a surrogate pair
            return orjson.dumps({name: ascii(value) for name, value in line.items()}).decode()
