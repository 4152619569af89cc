"""Request bodies as they arrive: the limits on their length, announced or not, and on their time, and decompression."""

from anyio import CapacityLimiter, to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.compression import WINDOWS, decompress
from service.connections import SLOWEST, STALLED
from service.errors import BadRequestError, BodyTimeoutError, BodyTooLargeError, MediaTypeError, error_response


class BodyLimit:
    """ASGI middleware: a body of more than `limit` bytes, compressed or not, is refused, and one that stalls.

    Compressed ones are decompressed in the threads of `workers`; the application sees them as if they had come plain.
    """

    def __init__(self, app: ASGIApp, limit: int, workers: CapacityLimiter) -> None:
        self._app = app
        self._limit = limit
        self._workers = workers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            encoding = _encoding(headers.get(b"content-encoding", b"").decode("latin-1"))
            self._check_length(int(headers.get(b"content-length", b"0")))
            receive = self._counting(receive, scope)
            if encoding:
                receive = await self._decompressing(receive, encoding)
                scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] not in REPLACED]}
        except (BadRequestError, BodyTimeoutError, BodyTooLargeError, MediaTypeError) as error:
            await error_response(error.status, str(error))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _counting(self, receive: Receive, scope: Scope) -> Receive:
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            self._check_length(received)
            if STALLED in scope and message.get("more_body"):
                raise BodyTimeoutError(f"the body came too slowly: send at least {SLOWEST:,} bytes a second of it")
            return message

        return receive_counted

    async def _decompressing(self, receive: Receive, encoding: str) -> Receive:
        """Take the whole body in, and hand it on as one message."""
        parts = []
        message: Message = {"more_body": True}
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                return receive
            parts.append(message.get("body", b""))
        body = await to_thread.run_sync(decompress, b"".join(parts), encoding, self._limit, limiter=self._workers)
        parts = [body]

        async def receive_decompressed() -> Message:
            return {"type": "http.request", "body": parts.pop()} if parts else await receive()

        return receive_decompressed

    def _check_length(self, length: int) -> None:
        if length > self._limit:
            raise BodyTooLargeError(
                f"the request body has more than {self._limit:,} bytes: send fewer or smaller images"
            )


# Headers that tell of the body as it was compressed.
REPLACED = (b"content-encoding", b"content-length")


def _encoding(encoding: str) -> str | None:
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in WINDOWS:
        raise MediaTypeError(
            f"Content-Encoding {encoding!r} is not understood: send {', '.join(WINDOWS)}, or the body uncompressed"
        )
    return encoding
