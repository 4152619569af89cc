"""What the Open Inference Protocol V2 tells of models beside their answers: names, metadata, configuration, counts."""

from collections.abc import Sequence

from fastapi import APIRouter, Request

from service.control.serving import WHOLE
from service.protocol.config import ModelConfig, model_config
from service.protocol.counts import ModelStatistics, RequestCounts
from service.protocol.envelope import ModelMetadata, ModelNames
from service.protocol.metadata import model_metadata
from service.protocol.sums import added
from service.routes.context import Context, Here
from service.runtime.model import LoadedModel

router = APIRouter(prefix="/v2/models", tags=["Open Inference Protocol"])


@router.get("")
async def names(here: Here) -> ModelNames:
    """The names of the models that are served."""
    return ModelNames(models=[model.manifest.name for model in here.shelf.served()])


@router.get("/stats")
async def all_statistics(here: Here) -> RequestCounts:
    """What every loaded version has done: images, runs, and nanoseconds of each step."""
    return RequestCounts(model_stats=await _counts(here, here.shelf.loaded()))


@router.get("/{name}")
@router.get("/{name}/versions/{version}")
async def metadata(request: Request, here: Here, name: str, version: str | None = None) -> ModelMetadata:
    """Inputs and outputs of a model. Its statistics outputs are listed at `/v1/models/{name}`."""
    model = await here.model(request, name, version)
    states = [state for state in await here.control.states() if state.name == name and state.version != WHOLE]
    return model_metadata(
        model.manifest, [state.version for state in states if state.state == "READY" or not state.reason]
    )


@router.get("/{name}/config")
@router.get("/{name}/versions/{version}/config")
async def config(request: Request, here: Here, name: str, version: str | None = None) -> ModelConfig:
    """The shapes and types of one image's tensors, and how many images a request may have."""
    model = await here.model(request, name, version)
    return model_config(model.manifest, here.settings.max_batch, model.provider, model.device, model.precision)


@router.get("/{name}/stats")
@router.get("/{name}/versions/{version}/stats")
async def statistics(request: Request, here: Here, name: str, version: str | None = None) -> RequestCounts:
    """What one model has done: all of its loaded versions, or the one that is named."""
    model = await here.model(request, name, version)
    asked = [model] if version else [loaded for loaded in here.shelf.loaded() if loaded.manifest.name == name]
    return RequestCounts(model_stats=await _counts(here, asked))


async def _counts(here: Context, models: Sequence[LoadedModel]) -> list[ModelStatistics]:
    """Of this process and its peers together."""
    own = [here.tally.of(model) for model in models]
    # What is told here is known to the peers: it is not forgotten if this process ends now.
    others = await here.peers.counts(here.tally.all()) if here.peers else []
    return [added(each for each in (mine, *others) if _same_version(each, mine)) for mine in own]


def _same_version(one: ModelStatistics, other: ModelStatistics) -> bool:
    return (one.name, one.version) == (other.name, other.version)
