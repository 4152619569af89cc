"""The Open Inference Protocol V2: metadata of a model, and inference on tensors."""

from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from service.errors import BadRequestError
from service.protocol.envelope import InferenceRequest, InferenceResponse, ModelMetadata
from service.protocol.inference import NO_BINARY
from service.protocol.metadata import model_metadata
from service.routes.context import Here
from service.runtime.inference import infer

router = APIRouter(prefix="/v2/models/{name}", tags=["Open Inference Protocol"])

# The body is read as it comes, because the protocol's clients send no Content-Type; this is its documentation.
BODY: dict[str, Any] = {
    "requestBody": {"content": {"application/json": {"schema": InferenceRequest.model_json_schema()}}, "required": True}
}


@router.get("")
@router.get("/versions/{version}")
async def metadata(request: Request, here: Here, name: str, version: str | None = None) -> ModelMetadata:
    """Inputs and outputs of a model. Its statistics outputs are listed at `/v1/models/{name}`."""
    model = await here.model(request, name, version)
    broken = {failure.version for failure in here.shelf.failures if failure.name == name}
    return model_metadata(
        model.manifest, [number for number in await here.shelf.versions(name) if number not in broken]
    )


@router.post("/infer", openapi_extra=BODY, responses={200: {"model": InferenceResponse}})
@router.post("/versions/{version}/infer", openapi_extra=BODY, responses={200: {"model": InferenceResponse}})
async def infer_tensors(request: Request, here: Here, name: str, version: str | None = None) -> Response:
    """Run a model on pixel values 0…255, as FP32 or UINT8. Name a statistics output in `outputs` to get it too."""
    if "inference-header-content-length" in request.headers:
        raise BadRequestError(NO_BINARY)
    body = await request.body()
    model = await here.model(request, name, version)
    observer = here.traffic.observer()
    answer = await to_thread.run_sync(infer, model, body, here.settings.max_batch, observer, limiter=here.workers)
    here.meters.inferred(name, answer.images, answer.statistics, answer.seconds)
    return Response(answer.body, media_type="application/json")
