"""The synchronous work of one protocol request: a message in, a message out."""

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.preprocessing import pixels_to_tensor
from service.errors import ImageTooLargeError, UnusableImageError
from service.images import PixelBudget, decode
from service.protocol.inference import Reply, read_request, write_response
from service.runtime.model import LoadedModel
from service.runtime.observation import Observer, run


class Durations(NamedTuple):
    """Nanoseconds of one request's work, in its order."""

    input: int
    """Reading the message, decoding images."""
    infer: int
    """The run of the model, with what waits for it."""
    output: int
    """Writing the answer."""


class Answer(NamedTuple):
    reply: Reply
    images: int
    statistics: bool
    durations: Durations


def infer(
    model: LoadedModel,
    body: bytes,
    json_lengths: list[str],
    max_batch: int,
    max_pixels: int,
    observer: Observer | None = None,
) -> Answer:
    """Answer a V2 inference request; naming a statistics output among the `outputs` runs the instrumented session.

    An observer is given the logits and all statistics. Raises `BadRequestError`, `UnusableImageError`,
    `ImageTooLargeError` or `ModelFaultError`.
    """
    manifest = model.manifest
    came = time.perf_counter_ns()
    call = read_request(body, manifest.inputs[0], model.output_names, model.statistics_names, max_batch, json_lengths)
    tensor = call.input if isinstance(call.input, np.ndarray) else _decode(call.input, model, max_pixels)
    read = time.perf_counter_ns()
    values = run(model, tensor, call.outputs, observer)
    ran = time.perf_counter_ns()
    labels = dict.fromkeys(model.output_names, manifest.class_names)
    reply = write_response(call, manifest.name, manifest.version, model.provider, values, labels)
    return Answer(
        reply=reply,
        images=len(tensor),
        statistics=not set(call.outputs) <= set(model.output_names),
        durations=Durations(read - came, ran - read, time.perf_counter_ns() - ran),
    )


def _decode(images: list[bytes], model: LoadedModel, max_pixels: int) -> NDArray[np.float32]:
    """Encoded images → N×C×H×W; the error of one that cannot be used says which it is."""
    budget = PixelBudget(max_pixels)
    pixels = []
    for index, image in enumerate(images):
        try:
            pixels.append(decode(image, model.manifest.preprocessing, budget))
        except (UnusableImageError, ImageTooLargeError) as error:
            raise type(error)(f"element {index} of input {model.manifest.inputs[0].name!r}: {error}") from error
    return pixels_to_tensor(np.stack(pixels), model.manifest.preprocessing)
