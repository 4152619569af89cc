"""The application: settings in, routes out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from models.repository import Bundle, ModelRepository, RepositoryError
from service.body import BodyLimit
from service.errors import ServiceError, StartupError, answer
from service.monitor.meters import Meters
from service.monitor.requests import RequestTimer
from service.protocol.metadata import service_version
from service.routes import classify, health, inference, metrics, models, pages, repository
from service.routes.answers import Error
from service.routes.context import Context
from service.runtime.cpus import available_cpus
from service.runtime.model import LoadedModel
from service.runtime.provider import choose_provider
from service.runtime.shelf import ModelShelf
from service.settings import Settings

ROUTERS = (
    pages.router,  # /
    models.router,  # /v1/models, /v1/models/{name}
    classify.router,  # /v1/models/{name}/classify
    health.router,  # /v2, /v2/health/*, /v2/models/{name}[/versions/{version}]/ready
    inference.router,  # /v2/models/{name}[/versions/{version}][/infer]
    repository.router,  # /v2/repository/index
    metrics.router,  # /metrics
)
HANDLED = (ServiceError, RepositoryError, RequestValidationError, HTTPException, ClientDisconnect, Exception)


def create_app(settings: Settings) -> FastAPI:
    """Make the application; its models are loaded when it starts.

    Raises `StartupError` when the settings ask for what is not there.
    """
    context = _context(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        Image.init()  # else the first request waits for Pillow's decoders
        await context.shelf.load_all()
        yield

    app = FastAPI(
        title="ResLens",
        summary="Residual networks, with a view into every layer.",
        version=service_version(),
        lifespan=lifespan,
        responses={"default": {"model": Error}},
    )
    app.state.context = context
    for router in ROUTERS:
        app.include_router(router)
    for kind in HANDLED:
        app.add_exception_handler(kind, answer)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(RequestTimer, meters=context.meters)
    return app


def _context(settings: Settings) -> Context:
    if not settings.model_repository.is_dir():
        raise StartupError(
            f"model repository {settings.model_repository} is not a directory: "
            "create it, or set RESLENS_MODEL_REPOSITORY"
        )
    repository = ModelRepository(settings.model_repository)
    try:
        repository.names()
    except OSError as error:
        raise StartupError(f"model repository {settings.model_repository} cannot be read: {error}") from error
    provider = choose_provider(settings.provider)
    cpus = available_cpus()
    threads = settings.threads or cpus

    def load(bundle: Bundle) -> LoadedModel:
        return LoadedModel(bundle, provider, threads)

    return Context(
        settings=settings,
        shelf=ModelShelf(repository, load, settings.max_versions),
        meters=Meters(),
        workers=CapacityLimiter(settings.concurrency or max(2, cpus)),
    )
