"""What is on the shelf, for people."""

from fastapi import APIRouter, Request

from models.manifest import ActivationSite
from service.control.serving import WHOLE, State
from service.routes.answers import FailedModel, LayerMeaning, Memory, ModelDetail, ModelList, ModelSummary, VersionState
from service.routes.context import Context, Here, LabelQuery, Version, named
from service.runtime.model import LoadedModel

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def models(here: Here) -> ModelList:
    """Every model that is served, and every version that cannot be, with the reason."""
    states = await here.control.states()
    return ModelList(
        models=[_summary(here, model, states) for model in here.shelf.served()],
        failed=[FailedModel(**failure._asdict()) for failure in here.shelf.failures],
        repository_problem=await here.control.problem(),
    )


@router.get("/{name}")
async def model(
    request: Request, here: Here, name: str, version: Version = None, label: LabelQuery = None
) -> ModelDetail:
    """Everything known of one model: classes, what each layer's statistics mean, how it was trained, how good it is."""
    loaded = await here.model(request, name, named(version, label))
    return ModelDetail(
        **dict(_summary(here, loaded, await here.control.states())),
        manifest=loaded.manifest,
        layers=[_meaning(site) for site in loaded.manifest.sites],
        statistics_outputs=list(loaded.statistics),
        memory=Memory(**loaded.memory._asdict()),
        load_seconds=loaded.load_seconds,
    )


def _meaning(site: ActivationSite) -> LayerMeaning:
    return LayerMeaning(
        layer=site.name,
        activation=site.activation,
        channels=site.channels,
        saturation=site.saturation,
        output_range=site.output_range,
        zero_is_dead=site.zero_is_dead,
        expected_mean_shift=site.expected_mean_shift,
    )


def _summary(here: Context, model: LoadedModel, states: list[State]) -> ModelSummary:
    manifest = model.manifest
    return ModelSummary(
        name=manifest.name,
        version=manifest.version,
        description=manifest.description,
        provider=model.provider,
        device=model.device,
        precision=model.precision,
        classes=len(manifest.class_names),
        accuracy=manifest.metrics.accuracy if manifest.metrics else None,
        attention=manifest.attention is not None,
        versions=[
            VersionState(version=state.version, loaded=state.state == "READY", reason=state.reason)
            for state in states
            if state.name == manifest.name and state.version != WHOLE
        ],
        labels=here.shelf.serving(manifest.name).labels,
    )
