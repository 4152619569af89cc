"""`python -m benchmarks.soak.leaking`: the service with a leak, which the judge must find.

It keeps `SOAK_LEAK_BYTES` for every request, and is otherwise what it is, in one process.
"""

import os

from starlette.types import ASGIApp, Receive, Scope, Send

from service.app import create_app
from service.server import Server
from service.settings import Settings


class Keeping:
    """ASGI application in front of another one: it never lets go of something as long as the body of a request."""

    def __init__(self, app: ASGIApp, length: int) -> None:
        self._app = app
        self._length = length
        self._kept: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._kept.append(os.urandom(self._length))
        await self._app(scope, receive, send)


if __name__ == "__main__":
    app = create_app(Settings())
    # In front of all: some requests do not go through the application's layers.
    app.state.front = Keeping(app.state.front, int(os.environ["SOAK_LEAK_BYTES"]))
    Server(app).run()
