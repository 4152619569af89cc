"""Every request as those who operate the service see it: its id, its time for the metrics, its line in the log."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import CLIENT_LEFT
from service.logs import CALLER, CURRENT, REQUEST_ID, RequestIdentity, access
from service.monitor.meters import MODEL, Meters
from service.tracing import Tracing


class RequestObserver:
    """ASGI middleware that names every request, tells the meters its status and duration, and logs it if asked to.

    The id comes back in the header `X-Request-Id`, and stands in every line that is logged on the request's behalf.
    """

    def __init__(self, app: ASGIApp, meters: Meters, log: bool, tracing: Tracing | None = None) -> None:
        self._app = app
        self._tracing = tracing
        self._meters = meters
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = self.begin(scope)
        started = time.perf_counter()
        status = CLIENT_LEFT  # unless there is an answer, or an error
        named = (b"x-request-id", request.id.encode())

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), named]
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception:
            # Answered outside of this middleware, by Starlette's own.
            status = 500
            raise
        finally:
            self.end(scope, status, time.perf_counter() - started)

    def begin(self, scope: Scope) -> RequestIdentity:
        """Name a request, in its scope and for its task."""
        request = RequestIdentity.of(scope["headers"])
        if self._tracing:
            trace_id, span_id = self._tracing.enter()
            request = request._replace(trace_id=trace_id, span_id=span_id)
        CURRENT.set(request)  # for this request's task alone
        scope[REQUEST_ID] = request.id
        self._meters.came()
        return request

    def end(self, scope: Scope, status: int, seconds: float) -> None:
        """Count it, and log it if that is asked for."""
        self._meters.answered(scope, status, seconds)
        if self._log:
            _log(scope, status, seconds)


def _log(scope: Scope, status: int, seconds: float) -> None:
    # As it came, percent-encoded: a path cannot forge a line. Without the query, which is nobody's business.
    path = scope.get("raw_path", b"").decode("latin-1") or scope["path"]
    fields = {
        "method": scope["method"],
        "path": path,
        "status": status,
        "seconds": round(seconds, 6),
        "client": (scope.get("client") or ("",))[0],
    }
    if model := scope.get(MODEL):
        fields["model"] = model
    if caller := scope.get(CALLER):
        fields["caller"] = caller
    access.info("%s %s %d %.1f ms", fields["method"], path, status, seconds * 1e3, extra={"fields": fields})
