"""The Open Inference Protocol V2: inference on tensors."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Response

from service.batching.entry import Ran
from service.compression import COMPRESSORS, WORTHWHILE_BYTES
from service.monitor.tally import Answered
from service.protocol.binary import HEADER
from service.protocol.envelope import InferenceRequest, InferenceResponse
from service.protocol.inference import InferenceCall, read_request, write_response
from service.routes.context import Context, Here
from service.routes.route import DirectRequest, DirectResponse, DirectRoute
from service.routes.steps import Moments, record_steps
from service.routes.terms import terms_of
from service.runtime.decoding import decode_all, decoding_seconds
from service.runtime.model import LoadedModel, Tensors

router = APIRouter(prefix="/v2/models/{name}", tags=["Open Inference Protocol"], route_class=DirectRoute)

_BYTES: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
# The body is read as it comes, because the protocol's clients send no Content-Type; this is its documentation.
BODY: dict[str, Any] = {
    "requestBody": {
        "content": {"application/json": {"schema": InferenceRequest.model_json_schema()}, **_BYTES},
        "required": True,
    },
    "parameters": [
        {
            "name": HEADER,
            "in": "header",
            "description": "Bytes of JSON at the start of a body where tensors follow; 0: the body is one raw tensor.",
            "schema": {"type": "integer", "minimum": 0},
        }
    ],
}
LENGTH_HEADER = HEADER.lower().encode()
ANSWER: dict[int | str, dict[str, Any]] = {200: {"model": InferenceResponse, "content": _BYTES}}
# What reading and writing cost, measured on one core: a byte of JSON, a byte of a binary tensor, a number to write, a
# byte to compress.
SECONDS_A_JSON_BYTE = 6e-9
SECONDS_A_BYTE = 0.5e-9
SECONDS_A_NUMBER = 100e-9
SECONDS_A_COMPRESSED_BYTE = 30e-9


@router.post("/infer", openapi_extra=BODY, responses=ANSWER)
@router.post("/versions/{version}/infer", openapi_extra=BODY, responses=ANSWER)
async def infer_tensors(request: DirectRequest, here: Here, name: str, version: str | None = None) -> Response:
    """Run a model on pixel values 0…255, as FP32, FP16 or UINT8, or on encoded images, as BYTES.

    Tensors are JSON or bytes behind it. Name a statistics output in `outputs` to get it too.
    """
    body = await request.body()
    model = await here.model(request, name, here.drawn(request, name) if version is None else version)
    came = time.perf_counter_ns()
    try:
        return await _infer(request, here, model, body, came)
    except Exception:
        here.tally.failed(model, time.perf_counter_ns() - came)
        raise


async def _infer(request: DirectRequest, here: Context, model: LoadedModel, body: bytes, came: int) -> Response:
    scheduler, settings = here.scheduler, here.settings
    lengths = request.headers.json_lengths
    names = (model.output_names, model.statistics_names)
    read = partial(read_request, body, model.manifest.inputs[0], *names, settings.max_batch, lengths)
    terms = terms_of(request, settings)
    call = await scheduler.work(_reading_seconds(len(body), lengths), read, terms)
    if call.priority or call.timeout_us:
        terms = terms_of(request, settings, call.priority, (call.timeout_us or 0) / 1e6)
    tensor = call.input
    if not isinstance(tensor, np.ndarray):
        decode = partial(decode_all, tensor, model, settings.max_pixels)
        tensor = await scheduler.work(decoding_seconds(tensor, model), decode, terms)
    ready = time.perf_counter_ns()
    ran = await scheduler.infer(model, tensor, call.outputs, terms, here.monitor.observer())
    done = time.perf_counter_ns()
    encoding = request.headers.encoding
    write = partial(_respond, call, model, ran.values, encoding)
    response = await scheduler.finish(_writing_seconds(ran.values, encoding), write)
    _count(here, model, call, len(tensor), ran, Moments(came, ready, done, time.perf_counter_ns()))
    return response


def _count(here: Context, model: LoadedModel, call: InferenceCall, images: int, ran: Ran, at: Moments) -> None:
    statistics = not model.plain_names.issuperset(call.outputs)
    answered = Answered(
        images=images,
        batches=(ran.batch,) * ran.runs,
        total=at.answered - at.came,
        input=at.ready - at.came,
        queue=ran.queue_ns,
        infer=ran.infer_ns,
        output=at.answered - at.done,
        statistics=statistics,
    )
    here.tally.succeeded(model, answered)
    record_steps(model, statistics, at, [ran])


def _respond(call: InferenceCall, model: LoadedModel, values: Tensors, encoding: str | None) -> Response:
    manifest = model.manifest
    labels = {model.logits_name: manifest.class_names}
    body, json_length = write_response(call, manifest.name, manifest.version, model.provider, values, labels)
    headers = []
    if json_length is not None:
        headers.append((LENGTH_HEADER, b"%d" % json_length))
    if encoding and len(body) >= WORTHWHILE_BYTES:
        body = COMPRESSORS[encoding](body)
        headers.append((b"content-encoding", encoding.encode()))
    media_type = b"application/json" if json_length is None else b"application/octet-stream"
    return DirectResponse(body, media_type, headers)


def _reading_seconds(size: int, lengths: Sequence[str]) -> float:
    json = min(int(lengths[0]), size) if lengths and lengths[0].isdecimal() and len(lengths[0]) < 19 else size
    return SECONDS_A_JSON_BYTE * json + SECONDS_A_BYTE * (size - json)


def _writing_seconds(values: Tensors, encoding: str | None) -> float:
    numbers = 0
    for value in values.values():
        numbers += value.size
    return numbers * (SECONDS_A_NUMBER + (4 * SECONDS_A_COMPRESSED_BYTE if encoding else 0.0))
