"""What the layers did to the traffic of a model, and what is wrong with it."""

from datetime import UTC, datetime
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request

from models.diagnosis.finding import Diagnosis
from service.errors import NotFoundError
from service.monitor.judging import Judgement
from service.monitor.summary import summary
from service.monitor.watch import Watch
from service.monitor.windows import HISTORY, check_window
from service.routes.answers import BaselineAnswer, DiagnosisAnswer, JudgedWindow, StatisticsAnswer
from service.routes.context import Context, Here
from service.runtime.model import LoadedModel

router = APIRouter(prefix="/v1/models/{name}", tags=["traffic"])

Version = Annotated[int | None, Query(ge=1)]


@router.get("/statistics")
async def statistics(
    request: Request, here: Here, name: str, window: str = "1h", version: Version = None
) -> StatisticsAnswer:
    """Every layer over a window of watched traffic: 1m, 5m, 15m, 1h of this process, 6h, 1d, 7d, 30d of all."""
    check_window(window)
    model = await here.model(request, name, version)
    return await to_thread.run_sync(_statistics, here, model, window, limiter=_limiter(here, window))


@router.get("/diagnosis")
async def diagnosis(
    request: Request, here: Here, name: str, window: str | None = None, version: Version = None
) -> DiagnosisAnswer:
    """The findings that hold, the evidence for each, and what could not be judged; with `window`, those of it alone."""
    if window is not None:
        check_window(window)
    model = await here.model(request, name, version)
    return await to_thread.run_sync(_diagnosis, here, model, window, limiter=_limiter(here, window))


@router.get("/baseline")
async def baseline(request: Request, here: Here, name: str, version: Version = None) -> BaselineAnswer:
    """What traffic is compared with: the same numbers from held-out images. 404 with the reason if there are none."""
    model = await here.model(request, name, version)
    return await to_thread.run_sync(_baseline, model, limiter=here.readers)


def _limiter(here: Context, window: str | None) -> CapacityLimiter:
    return here.historians if window in HISTORY else here.readers


def _statistics(here: Context, model: LoadedModel, name: str) -> StatisticsAnswer:
    watch = here.traffic.watch(model)
    seen = here.windows.seen(watch, name)
    reference = model.reference
    usual = reference.baseline
    window = seen.span.window if seen.span else watch.reader.empty()
    return StatisticsAnswer(
        model=model.manifest.name,
        version=model.manifest.version,
        window=name,
        source=seen.source,
        start=_time(seen.span.start) if seen.span else None,
        end=_time(seen.span.end) if seen.span else None,
        replicas=seen.replicas,
        unreadable=seen.unreadable,
        baseline_images=usual.images if usual else None,
        baseline_reason=reference.reason,
        **dict(summary(window, model.manifest, usual.window if usual else None)),
    )


def _diagnosis(here: Context, model: LoadedModel, name: str | None) -> DiagnosisAnswer:
    watch = here.traffic.watch(model)
    judge, reference = watch.judge, model.reference
    return DiagnosisAnswer(
        model=model.manifest.name,
        version=model.manifest.version,
        confirmed=judge.confirmed,
        current=_current(here, watch, name),
        window=name,
        judged=[_judged(judgement) for judgement in judge.recent],
        thresholds=judge.thresholds,
        baseline_images=reference.baseline.images if reference.baseline else None,
        baseline_reason=reference.reason,
    )


def _current(here: Context, watch: Watch, name: str | None) -> Diagnosis:
    if name is None and (recent := watch.judge.recent):
        return recent[-1].diagnosis
    span = None if name is None else here.windows.seen(watch, name).span
    # Nothing seen is too little for every rule, and each says so.
    return watch.judge.diagnose(span.window if span else watch.reader.empty())


def _baseline(model: LoadedModel) -> BaselineAnswer:
    usual = model.reference.baseline
    if usual is None:
        raise NotFoundError(model.reference.reason)
    return BaselineAnswer(
        model=model.manifest.name,
        version=model.manifest.version,
        calibrated_with=usual.outliers.calibrated_with,
        **dict(summary(usual.window, model.manifest)),
    )


def _judged(judgement: Judgement) -> JudgedWindow:
    return JudgedWindow(
        start=_time(judgement.start),
        end=_time(judgement.end),
        images=judgement.diagnosis.images,
        findings=len(judgement.diagnosis.findings),
    )


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
