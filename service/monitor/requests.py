"""Times every request for the metrics."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import CLIENT_LEFT
from service.monitor.meters import Meters


class RequestTimer:
    """ASGI middleware that tells the meters the status and the duration of every request."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._meters.came()
        started = time.perf_counter()
        status = CLIENT_LEFT  # unless there is an answer, or an error

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting_status)
        except Exception:
            # Answered outside of this middleware, by Starlette's own.
            status = 500
            raise
        finally:
            self._meters.answered(scope, status, time.perf_counter() - started)
