"""The short way: requests that are small and plain are answered without the application's layers.

Of what a small answer costs beside its run, a good part is one layer of ASGI handing it to the next. Here the same
functions are called one after the other. Whatever is unusual about a request sends it the long way.
"""

import time
from collections.abc import Coroutine

from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.access.gate import Access
from service.connections import WHOLE
from service.errors import CLIENT_LEFT, answer
from service.monitor.requests import RequestObserver
from service.plain import Answer, Write
from service.routes.route import DirectHeaders, DirectRequest, DirectRoute, DirectRoutes

# Of these the layers make something.
UNUSUAL = frozenset(
    {
        b"content-encoding",
        b"expect",
        b"forwarded",
        b"origin",
        b"transfer-encoding",
        b"x-forwarded-for",
        b"x-forwarded-proto",
    }
)


class Express:
    """ASGI application in front of another one, to which it leaves all that is not plain.

    Plain is a request of a direct route whose body came with its head and has a length of at most `max_body_bytes`,
    with no header in `UNUSUAL`. Where the same head comes again, its connection calls `plain`'s result instead.
    """

    def __init__(
        self,
        app: FastAPI,
        routes: DirectRoutes,
        observer: RequestObserver,
        access: Access | None,
        max_body_bytes: int,
        trusted: str,
    ) -> None:
        self._app = app
        # Uvicorn has its own types of the same messages.
        self._long: ASGIApp = ProxyHeadersMiddleware(app, trusted_hosts=trusted)  # type: ignore[arg-type, assignment]
        self._routes = routes
        self._observer = observer
        self._access = access
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope) if WHOLE in scope and scope[WHOLE]() else None
        if found is None:
            await self._long(scope, receive, send)
            return
        await self._answer(*found, DirectRequest(scope, receive, send), lambda one: one(scope, receive, send))

    def plain(self, scope: Scope) -> Answer | None:
        """How requests with this head are answered without ASGI; None if they cannot be."""
        found = self._find(scope)
        if found is None:
            return None
        headers = DirectHeaders(scope=scope)

        def answer_plain(scope: Scope, body: bytes, write: Write) -> Coroutine[object, object, None]:
            return self._answer(*found, DirectRequest.of(scope, headers, body), write)

        return answer_plain

    def _find(self, scope: Scope) -> tuple[DirectRoute, dict[str, str]] | None:
        if scope["root_path"]:
            return None
        for name, value in scope["headers"]:
            if name in UNUSUAL or (name == b"content-length" and int(value) > self._max_body_bytes):
                return None
        return self._routes.find(scope["method"], scope["path"])

    async def _answer(
        self, route: DirectRoute, parameters: dict[str, str], request: DirectRequest, write: Write
    ) -> None:
        identity = self._observer.begin(request.scope)
        started = time.perf_counter()
        status = CLIENT_LEFT
        try:
            response = await self._respond(route, parameters, identity.id, request)
            status = response.status_code
            await write(response)
        finally:
            self._observer.end(request.scope, status, time.perf_counter() - started)

    async def _respond(
        self, route: DirectRoute, parameters: dict[str, str], identity: str, request: DirectRequest
    ) -> Response:
        scope = request.scope
        scope["app"] = self._app
        response = self._access.refusal(scope) if self._access else None
        if response is None:
            scope["route"] = route
            try:
                response = await route.call(request, parameters)
            # Whatever it is: there is nobody outside who would answer.
            except Exception as error:
                response = await answer(request, error)
        # An answer to an internal error names it by itself, and no other does.
        if response.status_code != 500 or "x-request-id" not in response.headers:
            response.raw_headers.append((b"x-request-id", identity.encode()))
        return response
