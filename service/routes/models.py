"""What is on the shelf, for people."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from service.routes.answers import FailedModel, Memory, ModelDetail, ModelList, ModelSummary, VersionState
from service.routes.context import Here
from service.runtime.model import LoadedModel
from service.runtime.shelf import State

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def models(here: Here) -> ModelList:
    """Every model that is served, and every version that cannot be, with the reason."""
    states = await here.shelf.states()
    return ModelList(
        models=[_summary(model, states) for model in here.shelf.served()],
        failed=[FailedModel(**failure._asdict()) for failure in here.shelf.failures],
    )


@router.get("/{name}")
async def model(
    request: Request, here: Here, name: str, version: Annotated[int | None, Query(ge=1)] = None
) -> ModelDetail:
    """The whole manifest of one model: classes, layers, how it was trained and how good it is."""
    loaded = await here.model(request, name, version)
    return ModelDetail(
        **dict(_summary(loaded, await here.shelf.states())),
        manifest=loaded.manifest,
        statistics_outputs=list(loaded.statistics),
        memory=Memory(**loaded.memory._asdict()),
        load_seconds=loaded.load_seconds,
    )


def _summary(model: LoadedModel, states: list[State]) -> ModelSummary:
    manifest = model.manifest
    return ModelSummary(
        name=manifest.name,
        version=manifest.version,
        description=manifest.description,
        provider=model.provider,
        classes=len(manifest.class_names),
        accuracy=manifest.metrics.accuracy if manifest.metrics else None,
        versions=[
            VersionState(version=state.entry.version, loaded=state.loaded, reason=state.reason)
            for state in states
            if state.entry.name == manifest.name
        ],
    )
