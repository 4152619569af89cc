"""The JSON objects of the protocol. Tensor contents are left to `protocol.tensors`."""

from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from service.errors import BadRequestError

Parameters = dict[str, Any]


class InputTensor(BaseModel):
    name: str
    shape: list[Annotated[int, Field(strict=True)]]
    datatype: str
    parameters: Parameters = {}
    data: Any = None


class RequestedOutput(BaseModel):
    name: str
    parameters: Parameters = {}


class InferenceRequest(BaseModel):
    """Body of `POST …/infer`."""

    id: str | None = None
    parameters: Parameters = {}
    inputs: Annotated[list[InputTensor], Field(min_length=1)]
    outputs: list[RequestedOutput] | None = None


class OutputTensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class InferenceResponse(BaseModel):
    """Answer of `POST …/infer`."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters = Field(description="`provider`: the execution provider that ran")
    outputs: list[OutputTensor]


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """Answer of `GET /v2/models/{name}`."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class Health(BaseModel):
    """Both health answers, for clients that read the body instead of the status."""

    ready: bool
    live: bool


class ModelReady(BaseModel):
    name: str
    ready: bool


class IndexRequest(BaseModel):
    ready: bool = False
    """Whether to list only the versions that are loaded."""


class IndexEntry(BaseModel):
    name: str
    version: str
    state: str
    reason: str


def parse_json(body: bytes) -> Any:
    """Raises `BadRequestError` on anything but JSON, which knows no NaN and no infinity."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the request body is not JSON: {error}") from error
