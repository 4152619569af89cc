"""The application: settings in, routes out."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from models.repository import Bundle
from service.access.document import with_keys
from service.access.gate import Access, Gate
from service.access.slots import Slots
from service.batching.scheduler import scheduler_of
from service.body import BodyLimit
from service.control.controls import Controls
from service.control.opening import control_of, repository_of
from service.errors import answer
from service.express import Express
from service.monitor.buckets import SECONDS
from service.monitor.meters import Meters
from service.monitor.monitor import Monitor
from service.monitor.requests import RequestObserver
from service.monitor.tally import Tally
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
    versions,
)
from service.routes.answers import Error
from service.routes.context import Context, Peers
from service.routes.route import HANDLED, DirectRoutes
from service.runtime.cpus import available_cpus
from service.runtime.cuda import CudaOptions
from service.runtime.maps import LayerMaps
from service.runtime.model import LoadedModel
from service.runtime.provider import choose_provider
from service.runtime.shelf import ModelShelf
from service.settings import Settings
from service.tracing import OFF, tracing_of

ROUTERS = (
    pages.router,  # /
    models.router,  # /v1/models, /v1/models/{name}
    classify.router,  # /v1/models/{name}/classify
    versions.router,  # /v1/models/{name}/labels[/{label}], …/rollback, …/withheld/{version}
    statistics.router,  # /v1/models/{name}/statistics, …/diagnosis, …/baseline
    layers.router,  # /v1/models/{name}/layers/{layer}/map
    health.router,  # /v2, /v2/health/*, /v2/models/{name}[/versions/{version}]/ready
    descriptions.router,  # /v2/models, /v2/models/stats, /v2/models/{name}[/versions/{version}][/config|/stats]
    inference.router,  # /v2/models/{name}[/versions/{version}]/infer
    repository.router,  # /v2/repository/index, /v2/repository/models/{name}/load and …/unload
    metrics.router,  # /metrics
)
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


def create_app(
    settings: Settings,
    bucket_seconds: int = SECONDS,
    monitor: Callable[[Meters], Monitor] | None = None,
    peers: Peers | None = None,
    controls: Controls | None = None,
    slots: Slots | None = None,
) -> FastAPI:
    """Make the application; its models are loaded when it starts.

    Alone, it watches its traffic itself, counts it in buckets of `bucket_seconds`, and decides what it serves; as one
    of several processes it is given its peers, and what they have together: the monitor, the control, and the slots in
    which callers are counted. Raises `StartupError` when the settings ask for what is not there.
    """
    access = Access(settings, slots)
    meters = Meters()
    tally = Tally(meters.counted)
    own = control_of(settings, tally.last_used) if controls is None else None
    controls = controls or own
    assert controls is not None
    watching = monitor(meters) if monitor else _own_monitor(settings, meters, bucket_seconds)
    context = _context(settings, meters, tally, watching, controls, peers)
    tracing = tracing_of()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await context.monitor.start()
        try:
            if own is not None:
                await own.join(context.shelf)
                await own.start()
            yield
        finally:
            await context.scheduler.close()
            context.tally.settle()
            meters.settle()
            if own is not None:
                await own.close()
            await context.monitor.close()
            if tracing:
                await to_thread.run_sync(tracing.close)

    app = FastAPI(
        title="ResLens",
        summary="Residual networks, with a view into every layer.",
        version=service_version(),
        lifespan=lifespan,
        responses={"default": {"model": Error}},
        telemetry=tracing.telemetry() if tracing else OFF,
    )
    app.state.context = context
    plain = app.openapi
    app.openapi = lambda: with_keys(plain(), access)  # type: ignore[method-assign]  # as FastAPI documents it
    for router in ROUTERS:
        app.include_router(router)
    for kind in (*HANDLED, Exception):
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
    app.add_middleware(RequestObserver, meters=context.meters, log=settings.access_log, tracing=tracing)
    app.state.front = app if tracing else _express(app, context, access)
    return app


def _express(app: FastAPI, context: Context, access: Access) -> Express:
    """What servers are to be given instead of the application; FastAPI's spans are made by its layers."""
    return Express(
        app,
        DirectRoutes(ROUTERS),
        RequestObserver(app, context.meters, context.settings.access_log),
        access if access.limited else None,
        context.settings.max_body_bytes,
        os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1"),
    )


def _own_monitor(settings: Settings, meters: Meters, bucket_seconds: int) -> Monitor:
    # The database's library takes longer to import than all the rest: those who have another monitor do without.
    from service.monitor.local import local_monitor

    return local_monitor(settings, meters, bucket_seconds)


def _context(
    settings: Settings, meters: Meters, tally: Tally, monitor: Monitor, controls: Controls, peers: Peers | None
) -> Context:
    repository = repository_of(settings)
    provider = choose_provider(settings.provider, settings.device)
    cuda = CudaOptions.of(settings)
    cuda.check(provider)
    cpus = available_cpus()
    threads = settings.threads or cpus

    scheduler = scheduler_of(settings, provider, threads)

    def load(bundle: Bundle) -> LoadedModel:
        model = LoadedModel(bundle, provider, threads, settings.max_batch, cuda)
        scheduler.prepare(model)
        return model

    return Context(
        settings=settings,
        shelf=ModelShelf(repository, load),
        control=controls,
        meters=meters,
        tally=tally,
        scheduler=scheduler,
        workers=CapacityLimiter(max(2, cpus)),
        monitor=monitor,
        peers=peers,
        maps=LayerMaps(repository, threads),
    )
