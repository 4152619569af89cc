"""Routes that can be found and called without FastAPI's table and dependencies: those that every image passes."""

from collections.abc import Sequence
from functools import lru_cache
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
from service.errors import ServiceError

# What a client is told; whatever else is raised is the service's own fault.
HANDLED = (ServiceError, RepositoryError, RequestValidationError, HTTPException, ClientDisconnect)
# Query strings, of each route, and paths that are remembered as they were read, if they are no longer than that.
QUERIES = 256
PATHS = 1024
LONGEST = 256


class DirectRequest(Request):
    """A request whose body is most often one message: then reading it takes a fraction of the time."""

    @classmethod
    def of(cls, scope: Scope, headers: Headers, body: bytes) -> "DirectRequest":
        """A request that has come, with its headers as they were read before."""
        request = cls(scope)
        request._headers = headers
        request._body = body
        return request

    async def body(self) -> bytes:
        if hasattr(self, "_body") or self._stream_consumed:
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
