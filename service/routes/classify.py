"""Classification of images, with a view into the layers."""

import time
from functools import partial
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import APIRouter, Query, Response

from models.manifest import ModelManifest
from service.batching.entry import Ran
from service.errors import ServiceError, error_response, retry_after
from service.monitor.tally import Answered
from service.routes.answers import Classification
from service.routes.attention import attention_of, attention_seconds, check_attention
from service.routes.context import Context, Here
from service.routes.route import DirectRequest, DirectResponse, DirectRoute
from service.routes.steps import Moments, record_steps
from service.routes.terms import terms_of
from service.routes.upload import Image, JsonUpload, Options, Upload, read_upload
from service.runtime.classifier import Classifier, Verdict
from service.runtime.decoding import Tensor, decode_each, decoding_seconds
from service.runtime.model import LoadedModel

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=DirectRoute)

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

# What judging one image and writing the answer cost on one core, and for each activation layer: measured with a
# ResNet-20.
SECONDS_TO_RANK = 50e-6
SECONDS_A_LAYER = {"none": 0.0, "layers": 50e-6, "channels": 200e-6}


class Timing(NamedTuple):
    """Nanoseconds of the steps of one request."""

    decode: int
    inference: int
    """With what was waited for it."""


@router.post("/{name}/classify", openapi_extra=BODY, responses={200: {"model": Classification}})
async def classify(request: DirectRequest, here: Here, name: str, options: Annotated[Options, Query()]) -> Response:
    """Rank the classes of one image or several; with `statistics`, say what every activation layer did, and with
    `attention`, where the model looked.

    The images are files of a form, the raw body, or base64 in JSON. An image that cannot be used fails alone, with its
    own `error`; when none can be used, the request fails.
    """
    upload = await read_upload(request, options, here.settings.max_images, here.workers)
    asked = upload.options.named
    model = await here.model(request, name, here.drawn(request, name) if asked is None else asked)
    came = time.perf_counter_ns()
    try:
        return await _classify(request, here, model, upload, came)
    except Exception:
        here.tally.failed(model, time.perf_counter_ns() - came)
        raise


async def _classify(request: DirectRequest, here: Context, model: LoadedModel, upload: Upload, came: int) -> Response:
    scheduler, options = here.scheduler, upload.options
    if options.attention:
        check_attention(model)
    statistics = (options.statistics != "none", options.statistics == "channels")
    classifier = Classifier(model, options.top_k, *statistics, options.attention)
    terms = terms_of(request, here.settings, options.priority, (options.timeout_ms or 0) / 1e3)
    images = [image.content for image in upload.images]
    decode = partial(decode_each, images, model, here.settings.max_pixels)
    decoded = await scheduler.work(decoding_seconds(images, model), decode, terms)
    ready = time.perf_counter_ns()
    tensors = [image for image in decoded if not isinstance(image, ServiceError)]
    rans = iter(await scheduler.infer_each(model, tensors, classifier.outputs, terms, here.monitor.observer()))
    outcomes = [image if isinstance(image, ServiceError) else next(rans) for image in decoded]
    done = time.perf_counter_ns()
    timing = Timing(ready - came, done - ready)
    judge = partial(_judge, classifier, upload.images, decoded, outcomes, timing)
    seconds = SECONDS_TO_RANK + SECONDS_A_LAYER[options.statistics] * len(model.manifest.sites)
    if options.attention:
        seconds += attention_seconds(model)
    response, verdicts = await scheduler.finish(len(tensors) * seconds, judge)
    answered = time.perf_counter_ns()
    _count(here, classifier, outcomes, verdicts, timing, answered - came)
    runs = [outcome for outcome in outcomes if isinstance(outcome, Ran)]
    record_steps(model, classifier.statistics, Moments(came, ready, done, answered), runs)
    return response


def _judge(
    classifier: Classifier,
    images: list[Image],
    decoded: list[Tensor | ServiceError],
    outcomes: list[Ran | ServiceError],
    timing: Timing,
) -> tuple[Response, list[Verdict | ServiceError]]:
    verdicts = iter(classifier.verdicts([outcome.values for outcome in outcomes if isinstance(outcome, Ran)]))
    results = [next(verdicts) if isinstance(outcome, Ran) else outcome for outcome in outcomes]
    return _respond(classifier.model, images, decoded, results, timing), results


def _count(
    here: Context,
    classifier: Classifier,
    outcomes: list[Ran | ServiceError],
    results: list[Verdict | ServiceError],
    timing: Timing,
    total: int,
) -> None:
    model, name = classifier.model, classifier.model.manifest.name
    here.meters.decoded(name, timing.decode / 1e9)
    runs = [outcome for outcome in outcomes if isinstance(outcome, Ran) and outcome.runs]
    inferred = sum(isinstance(result, Verdict) for result in results)
    here.meters.failed(name, len(results) - inferred)
    if not inferred:
        here.tally.failed(model, total)
        return
    infer = min(timing.inference, sum(run.infer_ns for run in runs))
    answered = Answered(
        images=inferred,
        batches=tuple(run.batch for run in runs),
        total=total,
        input=timing.decode,
        queue=timing.inference - infer,
        infer=infer,
        output=total - timing.decode - timing.inference,
        statistics=classifier.statistics,
    )
    here.tally.succeeded(model, answered)


def _respond(
    model: LoadedModel,
    images: list[Image],
    decoded: list[Tensor | ServiceError],
    results: list[Verdict | ServiceError],
    timing: Timing,
) -> Response:
    failures = [result for result in results if isinstance(result, ServiceError)]
    if len(failures) == len(results):
        message = "; ".join(dict.fromkeys(str(failure) for failure in failures))
        return error_response(failures[0].status, message, retry_after(failures[0]))
    return DirectResponse(orjson.dumps(_answer(model, images, decoded, results, timing)), b"application/json")


def _answer(
    model: LoadedModel,
    images: list[Image],
    decoded: list[Tensor | ServiceError],
    results: list[Verdict | ServiceError],
    timing: Timing,
) -> dict[str, Any]:
    """A `Classification`, as plain objects: nobody has to validate what the service itself wrote."""
    manifest: ModelManifest = model.manifest
    return {
        "model": manifest.name,
        "version": manifest.version,
        "provider": model.provider,
        "images": [_image(model, *image) for image in zip(images, decoded, results, strict=True)],
        "timing": {
            "decode_ms": round(timing.decode / 1e6, 3),
            "inference_ms": round(timing.inference / 1e6, 3),
        },
    }


def _image(
    model: LoadedModel, image: Image, tensor: Tensor | ServiceError, result: Verdict | ServiceError
) -> dict[str, Any]:
    if isinstance(result, ServiceError):
        return {"file": image.file, "error": str(result)}
    attention = None
    if result.attention is not None and not isinstance(tensor, ServiceError):
        attention = attention_of(model, result.attention, tensor[0])
    return {
        "file": image.file,
        "classes": result.classes,
        "statistics": result.statistics.model_dump() if result.statistics else None,
        "prediction": result.prediction,
        "outlier": result.outlier,
        "attention": attention,
    }
