"""Reads the images and options of a classify request, in whichever of three forms they come."""

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile

from models.choice import Label, Version
from service.errors import BadRequestError, MediaTypeError, explain
from service.protocol.envelope import parse_json
from service.routes.context import named
from service.routes.route import DirectRequest

# Options, in JSON; more than there are, so that a wrong one is named.
MAX_OPTIONS = 16


class Options(BaseModel):
    """Options of a classify request: in the query, or as fields of the form or of the JSON object, which win."""

    model_config = ConfigDict(extra="forbid")

    top_k: Annotated[int, Field(ge=1, description="How many classes to rank; all of them if the model has fewer.")] = 5
    statistics: Annotated[
        Literal["none", "layers", "channels"],
        Field(
            description="What to say about the layers: nothing, one set of numbers a layer, "
            "or also those of every channel."
        ),
    ] = "none"
    attention: Annotated[
        bool,
        Field(
            description="Whether to say where the model looked, as numbers and as a picture; only of a model whose "
            "head is attention."
        ),
    ] = False
    version: Annotated[Version | None, Field(description="Version of the model; the served one if none is named.")] = (
        None
    )
    label: Annotated[Label | None, Field(description="Label of a version, instead of it.")] = None
    priority: Annotated[int, Field(ge=0, description="How urgent this is: 1 the most, 9 the least; 0 is 5.")] = 0
    timeout_ms: Annotated[
        float | None,
        Field(gt=0, description="Milliseconds that the request may wait for its turn; then it is not computed."),
    ] = None

    @property
    def named(self) -> int | str | None:
        """The version or the label; raises `BadRequestError` where both are given."""
        return named(self.version, self.label)


class JsonUpload(Options):
    """The JSON form of a classify request: `image` or `images` in base64, and options."""

    image: str | None = None
    images: list[str] | None = None


class Image(NamedTuple):
    file: str | None
    content: bytes


class Upload(NamedTuple):
    images: list[Image]
    options: Options


async def read_upload(request: DirectRequest, options: Options, max_images: int, workers: CapacityLimiter) -> Upload:
    """Read a multipart form, a JSON object, or the raw bytes of one image, as the Content-Type says.

    Raises `BadRequestError` without an image or with too many, `MediaTypeError` for any other Content-Type.
    """
    media_type = request.headers.media_type
    if media_type == "multipart/form-data":
        upload = await _read_form(request, options, max_images)
    elif media_type == "application/json":
        body = await request.body()
        upload = await to_thread.run_sync(_read_json, body, options, max_images, limiter=workers)
    elif media_type in ("", "application/octet-stream") or media_type.startswith("image/"):
        upload = Upload([Image(None, await request.body())], options)
    else:
        raise MediaTypeError(
            f"Content-Type {media_type!r} is not understood: send image/*, application/octet-stream, "
            "multipart/form-data (curl -F file=@photo.jpg), or application/json"
        )
    if not upload.images:
        raise BadRequestError("the request has no image: send at least one")
    return upload


async def _read_form(request: DirectRequest, options: Options, max_images: int) -> Upload:
    _refuse_other_charsets(request.headers["content-type"])
    images: list[Image] = []
    fields: dict[str, str] = {}
    async with request.form(max_files=max_images, max_fields=len(Options.model_fields)) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                images.append(Image(value.filename, await value.read()))
            elif name in Options.model_fields:
                fields[name] = value
            else:
                raise BadRequestError(f"form field {name!r} is text, not a file: with curl write -F {name}=@photo.jpg")
    return Upload(images, _merge(options, fields))


def _refuse_other_charsets(content_type: str) -> None:
    """Raise `BadRequestError` unless names in the form are UTF-8: other codecs make text that no JSON can carry."""
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in ("utf-8", "utf8"):
        raise BadRequestError(f"the form has charset {charset!r}: send it as utf-8, or without a charset")


def _read_json(body: bytes, options: Options, max_images: int) -> Upload:
    try:
        # Each image may be a data URL, which has a comma of its own.
        upload = JsonUpload.model_validate(parse_json(body, 2 * max_images + MAX_OPTIONS))
    except ValidationError as error:
        raise BadRequestError(explain(error)) from error
    encoded = [] if upload.image is None else [upload.image]
    encoded += upload.images or []
    if len(encoded) > max_images:
        raise BadRequestError(f"the request has {len(encoded)} images: send at most {max_images}")
    given = upload.model_dump(exclude={"image", "images"}, exclude_unset=True)
    return Upload([Image(None, _decode_base64(text)) for text in encoded], _merge(options, given))


def _merge(options: Options, fields: Mapping[str, Any]) -> Options:
    try:
        return Options.model_validate({**options.model_dump(exclude_unset=True), **fields})
    except ValidationError as error:
        raise BadRequestError(explain(error)) from error


def _decode_base64(text: str) -> bytes:
    """Line breaks and the head of a data URL are allowed."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text.encode("ascii").translate(None, b" \t\r\n"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequestError(f"the image is not base64: {error}") from error
