"""Routes that can be found and called without FastAPI's table and dependencies: those that every image passes."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from models.repository import RepositoryError
from service.compression import asked
from service.errors import ServiceError
from service.protocol.binary import HEADER

# What a client is told; whatever else is raised is the service's own fault.
HANDLED = (ServiceError, RepositoryError, RequestValidationError, HTTPException, ClientDisconnect)
# Query strings, of each route, and paths that are remembered as they were read, if they are no longer than that.
QUERIES = 256
PATHS = 1024
LONGEST = 256


class DirectHeaders(Headers):
    """Headers, and what these routes read in them, which is found out once for all requests with the same head."""

    @cached_property
    def json_lengths(self) -> tuple[str, ...]:
        """Of the JSON at the start of a body, as often as it was sent."""
        return tuple(self.getlist(HEADER))

    @cached_property
    def encoding(self) -> str | None:
        """The compression that the client asks for."""
        return asked(self.get("accept-encoding", ""))

    @cached_property
    def media_type(self) -> str:
        """Of the body; empty if nothing says it."""
        return self.get("content-type", "").partition(";")[0].strip().lower()


class DirectRequest(Request):
    """A request whose body is most often one message: then reading it takes a fraction of the time."""

    _headers: DirectHeaders
    _body: bytes

    @classmethod
    def of(cls, scope: Scope, headers: DirectHeaders, body: bytes) -> "DirectRequest":
        """A request that has come, with its headers as they were read before."""
        request = cls(scope)
        request._headers = headers
        request._body = body
        return request

    @property
    def headers(self) -> DirectHeaders:
        if not hasattr(self, "_headers"):
            self._headers = DirectHeaders(scope=self.scope)
        return self._headers

    async def body(self) -> bytes:
        if hasattr(self, "_body"):
            return self._body
        if self._stream_consumed:
            return await super().body()
        parts = []
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        self._stream_consumed = True
        self._body = parts[0] if len(parts) == 1 else b"".join(parts)
        return self._body


class DirectResponse(Response):
    """An answer 200 whose headers are bytes already."""

    def __init__(self, body: bytes, media_type: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", media_type), *headers]


class DirectRoute(APIRoute):
    """A route that FastAPI documents, and does not call.

    `await endpoint(request=…, here=…, **path parameters, **query parameters)` is the whole call, and gives a
    `Response`; it takes no other dependency. Path parameters are `str`. For a small tensor FastAPI's way there, through
    its dependencies and exit stacks, takes longer than all else that is done for a request. Use as
    `APIRouter(route_class=DirectRoute)`.
    """

    def __init__(self, path: str, *args: Any, **options: Any) -> None:
        super().__init__(path, *args, **options)
        others = (self.dependant.body_params, self.dependant.header_params, self.dependant.cookie_params)
        assert not any(others), f"{path}: bodies, headers and cookies are read from the request"
        # The same few come again and again; what is wrong raises, and is not remembered.
        self._read_query = lru_cache(QUERIES)(self._parse_query)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)  # which refuses it
            return
        response = await self.call(DirectRequest(scope, receive, send), scope["path_params"])
        await response(scope, receive, send)

    async def call(self, request: Request, parameters: dict[str, str]) -> Response:
        """The answer of the endpoint; raises what it raises, and `RequestValidationError` for a wrong query."""
        scope = request.scope
        text = scope["query_string"]
        query = self._read_query(text) if len(text) <= LONGEST else self._parse_query(text)
        response: Response = await self.endpoint(
            request=request, here=scope["app"].state.context, **parameters, **query
        )
        return response

    def _parse_query(self, query: bytes) -> dict[str, Any]:
        values, problems = request_params_to_args(self.dependant.query_params, QueryParams(query))
        if problems:
            raise RequestValidationError(problems)
        return values


class DirectRoutes:
    """The table of these routes, with the prefixes of their routers: finds one in one step.

    FastAPI's own table tries route after route, each in several ways, and is longer than these few.
    """

    def __init__(self, routers: Sequence[APIRouter]) -> None:
        self.routes = [route for router in routers for route in router.routes if isinstance(route, DirectRoute)]
        self._find = lru_cache(PATHS)(self._match)

    def find(self, method: str, path: str) -> tuple[DirectRoute, dict[str, str]] | None:
        """The route, and the parameters in the path; None if it is none of these."""
        return (self._find if len(path) <= LONGEST else self._match)(method, path)

    def _match(self, method: str, path: str) -> tuple[DirectRoute, dict[str, str]] | None:
        for route in self.routes:
            if method in (route.methods or ()) and (match := route.path_regex.match(path)):
                return route, match.groupdict()
        return None
