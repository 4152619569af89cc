"""The short way: requests that are small and plain are answered without the application's layers.

Of what a small answer costs beside its run, a good part is one layer of ASGI handing it to the next. Here the same
functions are called one after the other. Whatever is unusual about a request sends it the long way.
"""

import time

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.access.gate import Access
from service.connections import WHOLE
from service.errors import CLIENT_LEFT, answer
from service.monitor.requests import RequestObserver
from service.routes.route import DirectRequest, DirectRoute, DirectRoutes

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

    Plain is a request of a direct route whose body came with its head and has a length, with no header in `UNUSUAL`.
    """

    def __init__(
        self, app: FastAPI, routes: DirectRoutes, observer: RequestObserver, access: Access | None, trusted: str
    ) -> None:
        self._app = app
        # Uvicorn has its own types of the same messages.
        self._long: ASGIApp = ProxyHeadersMiddleware(app, trusted_hosts=trusted)  # type: ignore[arg-type, assignment]
        self._routes = routes
        self._observer = observer
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope)
        if found is None:
            await self._long(scope, receive, send)
        else:
            await self._answer(*found, scope, receive, send)

    def _find(self, scope: Scope) -> tuple[DirectRoute, dict[str, str]] | None:
        whole = scope.get(WHOLE)
        if whole is None or not whole() or scope["root_path"]:
            return None
        if not UNUSUAL.isdisjoint([name for name, _ in scope["headers"]]):
            return None
        return self._routes.find(scope["method"], scope["path"])

    async def _answer(
        self, route: DirectRoute, parameters: dict[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        scope["app"] = self._app
        identity = self._observer.begin(scope)
        started = time.perf_counter()
        status = CLIENT_LEFT
        try:
            response = self._access.refusal(scope) if self._access else None
            if response is None:
                scope["route"] = route
                request = DirectRequest(scope, receive, send)
                try:
                    response = await route.call(request, parameters)
                # Whatever it is: there is nobody outside who would answer.
                except Exception as error:
                    response = await answer(request, error)
            if "x-request-id" not in response.headers:
                response.raw_headers.append((b"x-request-id", identity.id.encode()))
            status = response.status_code
            await response(scope, receive, send)
        finally:
            self._observer.end(scope, status, time.perf_counter() - started)
