"""Routes that are called without FastAPI's dependency solving: those that every image passes."""

from functools import lru_cache
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

# Query strings, of each route, that are remembered as they were read.
QUERIES = 256


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
        response = await self.call(Request(scope, receive, send), scope["path_params"])
        await response(scope, receive, send)

    async def call(self, request: Request, parameters: dict[str, str]) -> Response:
        """The answer of the endpoint; raises what it raises, and `RequestValidationError` for a wrong query."""
        scope = request.scope
        query = self._read_query(scope["query_string"])
        response: Response = await self.endpoint(
            request=request, here=scope["app"].state.context, **parameters, **query
        )
        return response

    def _parse_query(self, query: bytes) -> dict[str, Any]:
        values, problems = request_params_to_args(self.dependant.query_params, QueryParams(query))
        if problems:
            raise RequestValidationError(problems)
        return values
