"""Routes that FastAPI documents and does not call: found and answered as it would."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute

from service.errors import BadRequestError, answer
from service.routes.context import Here
from service.routes.route import HANDLED, DirectRoute, DirectRoutes
from tests.service.conftest import eventually


class Place:
    """Stands for the parts of the application: what is given to the endpoint as `here`."""


async def endpoint(request: Request, here: Here, name: str, part: str | None = None, count: int = 1) -> Response:
    """Say what came."""
    assert isinstance(here, Place)
    if name == "bad":
        raise BadRequestError("a bad name")
    body = await request.body()
    assert await request.body() == body  # again
    return Response(f"{name} {part} {count} {body.decode()}", media_type="text/plain")


def application(kind: type[APIRoute]) -> FastAPI:
    router = APIRouter(prefix="/things/{name}", route_class=kind)
    router.post("/do")(endpoint)
    router.post("/parts/{part}/do")(endpoint)
    app = FastAPI()
    app.state.context = Place()
    app.include_router(router)
    for error in HANDLED:
        app.add_exception_handler(error, answer)
    return app


def asked(app: FastAPI, method: str, path: str, content: bytes | AsyncIterator[bytes] | None = None) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.request(method, path, content=content)

    return asyncio.run(ask())


USUAL = application(APIRoute)


@pytest.fixture
def app() -> FastAPI:
    return application(DirectRoute)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/things/one/do"),
        ("POST", "/things/one/do?count=3"),
        ("POST", "/things/one/do?part=query&count=1&count=4"),
        ("POST", "/things/one/parts/left/do"),
        ("POST", "/things/%C3%A9%20%2B/do"),
        ("POST", "/things/one/do?count=many"),
        ("POST", f"/things/{'long' * 100}/do?count=7&unknown={'long' * 100}"),
        ("POST", "/things/bad/do"),
        ("POST", "/things/a/b/do"),
        ("POST", "/things//do"),
        ("GET", "/things/one/do"),
        ("DELETE", "/things/one/parts/left/do"),
        ("POST", "/things/one/other"),
    ],
)
def test_it_answers_as_fastapi_would(app: FastAPI, method: str, path: str) -> None:
    def ask(application: FastAPI) -> tuple[int, str, str | None]:
        for _ in range(2):  # what was read once is remembered
            response = asked(application, method, path, b"body" if method == "POST" else None)
        return response.status_code, response.text, response.headers.get("allow")

    assert ask(app) == ask(USUAL)


def test_it_is_documented_as_fastapi_would(app: FastAPI) -> None:
    assert app.openapi() == USUAL.openapi()


def test_a_body_in_pieces_is_one(app: FastAPI) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"a", b"", b"b" * 70_000, b"c"):
            yield piece

    response = asked(app, "POST", "/things/one/do", pieces())
    assert response.text == "one None 1 a" + "b" * 70_000 + "c"


def test_other_dependencies_are_refused() -> None:
    async def wanting(body: dict[str, int]) -> Response:
        raise AssertionError(body)

    with pytest.raises(AssertionError, match="read from the request"):
        APIRouter(route_class=DirectRoute).post("/things")(wanting)


def test_the_table_finds_what_starlette_finds() -> None:
    router = APIRouter(prefix="/things/{name}", route_class=DirectRoute)
    router.post("/do")(endpoint)
    router.post("/parts/{part}/do")(endpoint)
    table = DirectRoutes([router])
    do, parts = table.routes
    long = "x" * 5000
    expected = {
        ("POST", "/things/a/do"): (do, {"name": "a"}),
        ("POST", f"/things/{long}/do"): (do, {"name": long}),
        ("POST", "/things/a/parts/b/do"): (parts, {"name": "a", "part": "b"}),
        ("GET", "/things/a/do"): None,
        ("POST", "/things//do"): None,
        ("POST", "/things/a/b/do"): None,
        ("POST", "/things/a/do/"): None,
    }
    for _ in range(2):  # what was found once is remembered
        assert {asked: table.find(*asked) for asked in expected} == expected


def test_inference_and_nothing_else_answers_directly(client: httpx.Client) -> None:
    from service.app import ROUTERS

    paths = {route.path for route in DirectRoutes(ROUTERS).routes}
    assert {"/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"} <= paths
    # The template stands in the metrics, as that of other routes does.
    client.post("/v2/models/tiny/infer", content=b"")
    eventually(lambda: 'route="/v2/models/{name}/infer"' in client.get("/metrics").text)
