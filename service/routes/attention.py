"""What an image's attention is answered as: numbers, and a picture that a browser shows as it is."""

from base64 import b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.preprocessing import tensor_to_pixels
from service.errors import BadRequestError
from service.heat_map import SMALLEST_SIDE, heat_map
from service.runtime.model import LoadedModel

# What a pixel of a picture costs on one core: measured.
SECONDS_A_PIXEL = 130e-9


def check_attention(model: LoadedModel) -> None:
    """Raise `BadRequestError` for a model that has none."""
    if model.manifest.attention is None:
        raise BadRequestError(
            f"model {model.manifest.name!r} has no attention to show: leave attention out, or ask a model whose head "
            "is `attention`"
        )


def attention_of(
    model: LoadedModel, weights_HW: NDArray[np.float32], tensor_CHW: NDArray[np.float32]
) -> dict[str, Any]:
    """An `Attention`, as plain objects."""
    pixels_CHW = tensor_to_pixels(tensor_CHW[None], model.manifest.preprocessing)[0]
    height, width = weights_HW.shape
    picture = b64encode(heat_map(weights_HW, pixels_CHW)).decode()
    return {
        "height": height,
        "width": width,
        "weights": weights_HW.tolist(),
        "heat_map": f"data:image/png;base64,{picture}",
    }


def attention_seconds(model: LoadedModel) -> float:
    """How long that is expected to take for one image."""
    preprocessing = model.manifest.preprocessing
    return SECONDS_A_PIXEL * max(preprocessing.height * preprocessing.width, SMALLEST_SIDE**2)
