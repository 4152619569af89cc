"""What the layers did to the traffic of a model, and what is wrong with it."""

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from service.monitor.answers import BaselineAnswer, DiagnosisAnswer, StatisticsAnswer
from service.monitor.usual import usual
from service.monitor.window_names import check_window
from service.routes.context import Here, LabelQuery, Version, named

router = APIRouter(prefix="/v1/models/{name}", tags=["traffic"])


@router.get("/statistics", response_model=StatisticsAnswer)
async def statistics(
    request: Request, here: Here, name: str, window: str = "1h", version: Version = None, label: LabelQuery = None
) -> Response:
    """Every layer over a window of watched traffic: 1m, 5m, 15m, 1h of this service, 6h, 1d, 7d, 30d of all."""
    check_window(window)
    model = await here.model(request, name, named(version, label))
    return Response(await here.monitor.statistics(model, window), media_type="application/json")


@router.get("/diagnosis", response_model=DiagnosisAnswer)
async def diagnosis(
    request: Request,
    here: Here,
    name: str,
    window: str | None = None,
    version: Version = None,
    label: LabelQuery = None,
) -> Response:
    """The findings that hold, the evidence for each, and what could not be judged; with `window`, those of it alone."""
    if window is not None:
        check_window(window)
    model = await here.model(request, name, named(version, label))
    return Response(await here.monitor.diagnosis(model, window), media_type="application/json")


@router.get("/baseline")
async def baseline(
    request: Request, here: Here, name: str, version: Version = None, label: LabelQuery = None
) -> BaselineAnswer:
    """What traffic is compared with: the same numbers from held-out images. 404 with the reason if there are none."""
    model = await here.model(request, name, named(version, label))
    return await to_thread.run_sync(usual, model)
