"""The synchronous work of one protocol request: bytes of JSON in, bytes of JSON out."""

import time
from typing import NamedTuple

from service.protocol.inference import read_request, write_response
from service.runtime.model import LoadedModel
from service.runtime.observation import Observer, run


class Answer(NamedTuple):
    body: bytes
    images: int
    statistics: bool
    seconds: float
    """Of the inference alone."""


def infer(model: LoadedModel, body: bytes, max_batch: int, observer: Observer | None = None) -> Answer:
    """Answer a V2 inference request; naming a statistics output among the `outputs` runs the instrumented session.

    An observer is given the logits and all statistics.
    """
    manifest = model.manifest
    call = read_request(body, manifest.inputs[0], model.output_names, model.statistics_names, max_batch)
    started = time.perf_counter()
    values = run(model, call.tensor, call.outputs, observer)
    seconds = time.perf_counter() - started
    return Answer(
        body=write_response(call, manifest.name, manifest.version, model.provider, values),
        images=len(call.tensor),
        statistics=not set(call.outputs) <= set(model.output_names),
        seconds=seconds,
    )
