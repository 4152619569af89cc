"""Encoded images of one request → tensors for a model. Synchronous."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.preprocessing import pixels_to_tensor
from service.errors import ServiceError
from service.images import PixelBudget, decode, decode_cost
from service.runtime.model import LoadedModel

Tensor = NDArray[np.float32]


def decoding_seconds(images: Sequence[bytes], model: LoadedModel) -> float:
    """How long decoding these for a model is expected to take."""
    return sum(decode_cost(image, model.manifest.preprocessing) for image in images)


def decode_each(images: Sequence[bytes], model: LoadedModel, max_pixels: int) -> list[Tensor | ServiceError]:
    """A tensor 1×C×H×W for each image, or what is wrong with it; together they may have `max_pixels`."""
    budget = PixelBudget(max_pixels)
    return [_decode(image, model, budget) for image in images]


def decode_all(images: Sequence[bytes], model: LoadedModel, max_pixels: int) -> Tensor:
    """All as one tensor N×C×H×W.

    Raises `UnusableImageError` or `ImageTooLargeError` for the first that cannot be used, and says which it is.
    """
    budget = PixelBudget(max_pixels)
    tensors = []
    for index, image in enumerate(images):
        tensor = _decode(image, model, budget)
        if isinstance(tensor, ServiceError):
            name = model.manifest.inputs[0].name
            raise type(tensor)(f"element {index} of input {name!r}: {tensor}") from tensor
        tensors.append(tensor)
    return np.concatenate(tensors)


def _decode(image: bytes, model: LoadedModel, budget: PixelBudget) -> Tensor | ServiceError:
    preprocessing = model.manifest.preprocessing
    try:
        return pixels_to_tensor(decode(image, preprocessing, budget)[None], preprocessing)
    except ServiceError as error:
        return error
