"""The Prometheus scrape."""

from functools import partial

from anyio import to_thread
from fastapi import APIRouter, Response

from service.monitor.meters import CONTENT_TYPE
from service.routes.context import Here

router = APIRouter(tags=["operation"])


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", response_class=Response)
async def metrics(here: Here) -> Response:
    """Counters and histograms in the text format of Prometheus."""
    # In a thread: it reads files of all processes.
    exposition = partial(here.meters.exposition, here.shelf.served(), failed=len(here.shelf.failures))
    here.tally.settle()
    body = await to_thread.run_sync(exposition)
    return Response(body + await here.monitor.series(), headers={"Content-Type": CONTENT_TYPE})
