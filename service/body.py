"""The limit on request bodies, enforced while they arrive, whether or not they announce their length."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLargeError, MediaTypeError, error_response


class BodyLimit:
    """ASGI middleware: a body longer than `limit` bytes, or compressed, is refused."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            self._check_encoding(headers.get(b"content-encoding", b"identity").decode("latin-1"))
            self._check_length(int(headers.get(b"content-length", b"0")))
        except (BodyTooLargeError, MediaTypeError) as error:
            await error_response(error.status, str(error))(scope, receive, send)
            return
        await self._app(scope, self._counting(receive), send)

    def _counting(self, receive: Receive) -> Receive:
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            self._check_length(received)
            return message

        return receive_counted

    def _check_length(self, length: int) -> None:
        if length > self._limit:
            raise BodyTooLargeError(
                f"the request body has more than {self._limit:,} bytes: send fewer or smaller images"
            )

    def _check_encoding(self, encoding: str) -> None:
        if encoding.strip().lower() not in ("", "identity"):
            raise MediaTypeError(f"Content-Encoding {encoding!r} is not understood: send the body uncompressed")
