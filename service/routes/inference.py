"""The Open Inference Protocol V2: inference on tensors."""

import time
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from service.compression import COMPRESSORS, WORTHWHILE_BYTES, asked
from service.monitor.tally import Answered
from service.protocol.binary import HEADER
from service.protocol.envelope import InferenceRequest, InferenceResponse
from service.protocol.inference import Reply
from service.routes.context import Here
from service.routes.route import DirectRoute
from service.runtime.inference import infer

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
ANSWER: dict[int | str, dict[str, Any]] = {200: {"model": InferenceResponse, "content": _BYTES}}


@router.post("/infer", openapi_extra=BODY, responses=ANSWER)
@router.post("/versions/{version}/infer", openapi_extra=BODY, responses=ANSWER)
async def infer_tensors(request: Request, here: Here, name: str, version: str | None = None) -> Response:
    """Run a model on pixel values 0…255, as FP32, FP16 or UINT8, or on encoded images, as BYTES.

    Tensors are JSON or bytes behind it. Name a statistics output in `outputs` to get it too.
    """
    body = await request.body()
    model = await here.model(request, name, version)
    encoding = asked(request.headers.get("accept-encoding", ""))
    lengths = request.headers.getlist(HEADER)
    observer = here.monitor.observer()
    came = time.perf_counter_ns()

    def work() -> Response:
        answer = infer(model, body, lengths, here.settings.max_batch, here.settings.max_pixels, observer)
        response = _respond(answer.reply, encoding)
        total = time.perf_counter_ns() - came
        here.meters.inferred(name, answer.images, answer.statistics, answer.durations.infer / 1e9)
        here.tally.succeeded(model, Answered(answer.images, 1, total, *answer.durations))
        return response

    try:
        return await to_thread.run_sync(work, limiter=here.workers)
    except Exception:
        here.tally.failed(model, time.perf_counter_ns() - came)
        raise


def _respond(reply: Reply, encoding: str | None) -> Response:
    headers = {}
    if reply.json_length is not None:
        headers[HEADER] = str(reply.json_length)
    body = reply.body
    if encoding and len(body) >= WORTHWHILE_BYTES:
        body = COMPRESSORS[encoding](body)
        headers["Content-Encoding"] = encoding
    media_type = "application/json" if reply.json_length is None else "application/octet-stream"
    return Response(body, headers=headers, media_type=media_type)
