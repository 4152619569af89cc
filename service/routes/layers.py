"""The activation maps of one layer, to look at."""

from typing import Annotated, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray

from models.preprocessing import pixels_to_tensor
from service.errors import BadRequestError
from service.images import PixelBudget, decode
from service.mosaic import mosaic
from service.routes.answers import LayerMap
from service.routes.classify import BODY
from service.routes.context import Here, LabelQuery, Version
from service.routes.route import DirectRequest
from service.routes.terms import terms_of
from service.routes.upload import Options, read_upload
from service.runtime.maps import LayerMaps, find_site
from service.runtime.model import LoadedModel

router = APIRouter(prefix="/v1/models/{name}/layers", tags=["models"])

# Enough to be in a thread: a map may need a session of its own.
SECONDS_A_MAP = 0.1
PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}


@router.post("/{layer}/map", openapi_extra=BODY, responses={200: {"model": LayerMap, "content": PNG}})
async def layer_map(
    request: Request,
    here: Here,
    name: str,
    layer: str,
    channel: Annotated[int | None, Query(ge=0)] = None,
    format: Literal["png", "json"] = "png",  # noqa: A002
    version: Version = None,
    label: LabelQuery = None,
) -> Response:
    """What one layer does to one image: every channel in a grid, or one `channel`, as a PNG or as numbers.

    The image comes as for `classify`. All channels have one scale of grey, from the least value to the greatest; what
    is not finite is red.
    """
    upload = await read_upload(
        DirectRequest(request.scope, request.receive), Options(version=version, label=label), 1, here.workers
    )
    model = await here.model(request, name, upload.options.named)
    channels = _channels(model, layer, channel)
    (image,) = upload.images

    def work() -> Response:
        values_CHW = _map(here.maps, model, layer, image.content, here.settings.max_pixels)[channels]
        if format == "png":
            return Response(mosaic(values_CHW), media_type="image/png")
        return Response(_numbers(model, layer, channels, values_CHW), media_type="application/json")

    return await here.scheduler.work(SECONDS_A_MAP, work, terms_of(request, here.settings))


def _channels(model: LoadedModel, layer: str, channel: int | None) -> list[int]:
    count = find_site(model, layer).channels
    if channel is None:
        return list(range(count))
    if channel >= count:
        raise BadRequestError(f"layer {layer!r} has no channel {channel}; choose from 0…{count - 1}")
    return [channel]


def _map(maps: LayerMaps, model: LoadedModel, layer: str, content: bytes, max_pixels: int) -> NDArray[np.float32]:
    preprocessing = model.manifest.preprocessing
    pixels = decode(content, preprocessing, PixelBudget(max_pixels))
    return maps.map(model, layer, pixels_to_tensor(pixels[None], preprocessing))


def _numbers(model: LoadedModel, layer: str, channels: list[int], values_CHW: NDArray[np.float32]) -> bytes:
    """A `LayerMap`. JSON has no infinity and no NaN: orjson writes null."""
    return orjson.dumps(
        {
            "model": model.manifest.name,
            "version": model.manifest.version,
            "layer": layer,
            "channels": channels,
            "height": values_CHW.shape[1],
            "width": values_CHW.shape[2],
            "values": np.ascontiguousarray(values_CHW),
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
