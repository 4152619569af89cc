"""The application: settings in, routes out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from models.diagnosis.thresholds import Thresholds
from models.repository import Bundle, ModelRepository, RepositoryError
from service.access.gate import Access, Gate
from service.body import BodyLimit
from service.errors import ServiceError, StartupError, answer
from service.history.database import open_engine
from service.history.retention import Retention
from service.history.store import HistoryStore
from service.history.writer import HistoryWriter
from service.monitor.buckets import SECONDS
from service.monitor.collector import TrafficCollector
from service.monitor.meters import Meters
from service.monitor.requests import RequestObserver
from service.monitor.tally import Tally
from service.monitor.traffic import Traffic
from service.monitor.webhook import Webhook
from service.monitor.windows import Windows
from service.protocol.metadata import service_version
from service.routes import (
    classify,
    descriptions,
    health,
    inference,
    layers,
    metrics,
    models,
    pages,
    repository,
    statistics,
)
from service.routes.answers import Error
from service.routes.context import Context
from service.runtime.cpus import available_cpus
from service.runtime.maps import LayerMaps
from service.runtime.model import LoadedModel
from service.runtime.provider import choose_provider
from service.runtime.shelf import ModelShelf
from service.settings import Settings

ROUTERS = (
    pages.router,  # /
    models.router,  # /v1/models, /v1/models/{name}
    classify.router,  # /v1/models/{name}/classify
    statistics.router,  # /v1/models/{name}/statistics, …/diagnosis, …/baseline
    layers.router,  # /v1/models/{name}/layers/{layer}/map
    health.router,  # /v2, /v2/health/*, /v2/models/{name}[/versions/{version}]/ready
    descriptions.router,  # /v2/models, /v2/models/stats, /v2/models/{name}[/versions/{version}][/config|/stats]
    inference.router,  # /v2/models/{name}[/versions/{version}]/infer
    repository.router,  # /v2/repository/index, /v2/repository/models/{name}/load and …/unload
    metrics.router,  # /metrics
)
# Threads for questions about traffic, and as many for those that the history answers.
READERS = 2
# What pages of other origins may send and see.
CROSS_ORIGIN_HEADERS = (
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Inference-Header-Content-Length",
    "Traceparent",
    "X-API-Key",
    "X-Request-Id",
)
CROSS_ORIGIN_ANSWER_HEADERS = ("Inference-Header-Content-Length", "Retry-After", "X-Request-Id")
HANDLED = (ServiceError, RepositoryError, RequestValidationError, HTTPException, ClientDisconnect, Exception)


def create_app(settings: Settings, bucket_seconds: int = SECONDS) -> FastAPI:
    """Make the application; its models are loaded when it starts.

    Traffic is counted in buckets of `bucket_seconds`. Raises `StartupError` when the settings ask for what is not
    there.
    """
    access = Access(settings)
    context = _context(settings, bucket_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        Image.init()  # else the first request waits for Pillow's decoders
        context.traffic.start()
        try:
            await context.shelf.load_all()
            yield
        finally:
            await to_thread.run_sync(context.traffic.close)

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
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes, workers=context.workers)
    if access.limited:
        app.add_middleware(Gate, access=access)
    if settings.origins:
        # Outside of the gate: what a browser asks beforehand comes without a key.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=("GET", "POST"),
            allow_headers=CROSS_ORIGIN_HEADERS,
            expose_headers=CROSS_ORIGIN_ANSWER_HEADERS,
        )
    app.add_middleware(RequestObserver, meters=context.meters, log=settings.access_log)
    return app


def _context(settings: Settings, bucket_seconds: int) -> Context:
    repository = _repository(settings)
    provider = choose_provider(settings.provider)
    cpus = available_cpus()
    threads = settings.threads or cpus
    meters = Meters()
    store = _store(settings)
    traffic = _traffic(settings, meters, store, bucket_seconds)

    def load(bundle: Bundle) -> LoadedModel:
        return LoadedModel(bundle, provider, threads, settings.max_batch)

    return Context(
        settings=settings,
        shelf=ModelShelf(repository, load, settings.max_versions),
        meters=meters,
        tally=Tally(),
        workers=CapacityLimiter(settings.concurrency or max(2, cpus)),
        traffic=traffic,
        windows=Windows(store, traffic.replica),
        maps=LayerMaps(repository, threads),
        readers=CapacityLimiter(READERS),
        historians=CapacityLimiter(READERS),
    )


def _repository(settings: Settings) -> ModelRepository:
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
    return repository


def _store(settings: Settings) -> HistoryStore | None:
    """The history, which nothing is asked yet: that it cannot be reached is no reason not to start."""
    if not settings.history_address:
        return None
    try:
        return HistoryStore(open_engine(settings.history_address))
    except ValueError as error:
        raise StartupError(f"{error} (RESLENS_HISTORY_URL)") from error


def _traffic(settings: Settings, meters: Meters, store: HistoryStore | None, bucket_seconds: int) -> Traffic:
    diagnosis_seconds = settings.diagnosis_minutes * bucket_seconds
    thresholds = Thresholds(
        expected_hours_between_false_alarms=settings.false_alarm_hours, window_seconds=diagnosis_seconds
    )
    writer = webhook = None
    if store is not None:
        writer = HistoryWriter(store, Retention(store, settings.history_days, settings.history_megabytes * 1_000_000))
    if settings.webhook_url and settings.webhook_secret:
        webhook = Webhook(settings.webhook_url, settings.webhook_secret.get_secret_value())
    traffic = Traffic(meters, settings.statistics_sample, thresholds, writer, webhook, bucket_seconds)
    meters.add(TrafficCollector(traffic, writer, webhook))
    return traffic
