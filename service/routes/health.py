"""Whether the service lives and can answer."""

from fastapi import APIRouter, Response
from starlette.requests import Request

from service.protocol.envelope import Health, ModelReady, ServerMetadata
from service.protocol.metadata import server_metadata
from service.routes.context import Here

router = APIRouter(tags=["Open Inference Protocol"])


@router.get("/v2")
async def server() -> ServerMetadata:
    """Name, version and protocol extensions of this server."""
    return server_metadata()


@router.head("/v2/health/live", include_in_schema=False)
@router.get("/v2/health/live")
async def live(here: Here) -> Health:
    """200 as long as the process answers at all."""
    return Health(ready=bool(here.shelf.served()), live=True)


@router.head("/v2/health/ready", include_in_schema=False)
@router.get("/v2/health/ready")
async def ready(here: Here, response: Response) -> Health:
    """200 when at least one model is served, else 503, also as soon as the process is told to end."""
    health = Health(ready=bool(here.shelf.served()) and not here.lifetime.ends, live=True)
    response.status_code = 200 if health.ready else 503
    return health


@router.get("/v2/models/{name}/ready")
@router.get("/v2/models/{name}/versions/{version}/ready")
async def model_ready(request: Request, here: Here, name: str, version: str | None = None) -> ModelReady:
    """200 when this model answers, else 503 with the reason. A version that is not loaded yet is loaded now."""
    await here.model(request, name, version)
    return ModelReady(name=name, ready=True)
