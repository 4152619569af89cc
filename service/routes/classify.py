"""Classification of images, with a view into the layers."""

import time
from typing import Annotated, Any

import orjson
from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from models.manifest import ModelManifest
from service.errors import ServiceError, error_response
from service.monitor.tally import Answered
from service.routes.answers import Classification
from service.routes.context import Context, Here
from service.routes.upload import Image, JsonUpload, Options, Upload, read_upload
from service.runtime.classifier import Classifier, Outcome, Verdict
from service.runtime.model import LoadedModel

router = APIRouter(prefix="/v1/models", tags=["models"])

_FILE = {"type": "string", "format": "binary"}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": {"type": "array", "items": _FILE}}}
            },
            "image/*": {"schema": _FILE},
            "application/json": {"schema": JsonUpload.model_json_schema()},
        },
    }
}


@router.post("/{name}/classify", openapi_extra=BODY, responses={200: {"model": Classification}})
async def classify(request: Request, here: Here, name: str, options: Annotated[Options, Query()]) -> Response:
    """Rank the classes of one image or several; with `statistics`, say what every activation layer did.

    The images are files of a form, the raw body, or base64 in JSON. An image that cannot be used fails alone, with its
    own `error`; when none can be used, the request fails.
    """
    upload = await read_upload(request, options, here.settings.max_images, here.workers)
    model = await here.model(request, name, upload.options.version)
    return await _classify(here, model, upload)


async def _classify(here: Context, model: LoadedModel, upload: Upload) -> Response:
    options = upload.options
    classifier = Classifier(
        model=model,
        top_k=options.top_k,
        statistics=options.statistics != "none",
        channels=options.statistics == "channels",
        max_pixels=here.settings.max_pixels,
        max_batch=here.settings.max_batch,
        observer=here.monitor.observer(),
    )

    def work() -> tuple[Outcome, Response]:
        outcome = classifier.classify([image.content for image in upload.images])
        # Here too, because the values of every channel are megabytes of JSON.
        return outcome, _respond(model, upload.images, outcome)

    came = time.perf_counter_ns()
    outcome, response = await to_thread.run_sync(work, limiter=here.workers)
    total = time.perf_counter_ns() - came
    name = model.manifest.name
    here.meters.decoded(name, outcome.decode_seconds)
    inferred = sum(isinstance(result, Verdict) for result in outcome.results)
    if inferred:
        here.meters.inferred(name, inferred, classifier.statistics, outcome.inference_seconds)
        runs = -(-inferred // here.settings.max_batch)
        decode_ns, infer_ns = round(outcome.decode_seconds * 1e9), round(outcome.inference_seconds * 1e9)
        here.tally.succeeded(model, Answered(inferred, runs, total, decode_ns, infer_ns, output=0))
    else:
        here.tally.failed(model, total)
    here.meters.failed(name, len(outcome.results) - inferred)
    return response


def _respond(model: LoadedModel, images: list[Image], outcome: Outcome) -> Response:
    failures = [result for result in outcome.results if isinstance(result, ServiceError)]
    if len(failures) == len(outcome.results):
        message = "; ".join(dict.fromkeys(str(failure) for failure in failures))
        return error_response(failures[0].status, message)
    return Response(orjson.dumps(_answer(model, images, outcome)), media_type="application/json")


def _answer(model: LoadedModel, images: list[Image], outcome: Outcome) -> dict[str, Any]:
    """A `Classification`, as plain objects: nobody has to validate what the service itself wrote."""
    manifest: ModelManifest = model.manifest
    return {
        "model": manifest.name,
        "version": manifest.version,
        "provider": model.provider,
        "images": [_image(image, result) for image, result in zip(images, outcome.results, strict=True)],
        "timing": {
            "decode_ms": round(outcome.decode_seconds * 1e3, 3),
            "inference_ms": round(outcome.inference_seconds * 1e3, 3),
        },
    }


def _image(image: Image, result: Verdict | ServiceError) -> dict[str, Any]:
    if isinstance(result, ServiceError):
        return {"file": image.file, "error": str(result)}
    return {
        "file": image.file,
        "classes": result.classes,
        "statistics": result.statistics.model_dump() if result.statistics else None,
        "prediction": result.prediction,
        "outlier": result.outlier,
    }
