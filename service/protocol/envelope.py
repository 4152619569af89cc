"""The JSON objects of the protocol. Tensor contents are left to `protocol.tensors`."""

from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, Strict

from service.errors import BadRequestError
from service.protocol.described import Described

Count = Annotated[int, Strict(), Field(ge=0)]
Flag = Annotated[bool, Strict()]

# Of what has a size: others are told the same.
MAX_INTEGER = 2**63 - 1
# More objects than any request of the protocol has, parameters included.
MAX_OBJECTS = 1000


class TensorParameters(Described):
    """Parameters of an input or an output. Those that are not known are left alone, as the protocol wants."""

    # What is frozen as a default is not copied for every request.
    model_config = ConfigDict(frozen=True)

    shared_memory_region: Any = None
    """Refused: there is no shared memory."""


class InputParameters(TensorParameters):
    binary_data_size: Count | None = None
    """Bytes of this tensor behind the JSON."""


class OutputParameters(TensorParameters):
    binary_data: Flag | None = None
    """Whether this output comes as bytes behind the JSON; `binary_data_output` decides if this does not."""
    classification: Count = 0
    """How many of the largest values to answer, as BYTES `value:index:label`, instead of all as numbers."""


class RequestParameters(Described):
    model_config = ConfigDict(frozen=True)

    binary_data_output: Flag = False
    """Whether outputs come as bytes behind the JSON."""
    priority: Annotated[Count, Field(le=MAX_INTEGER)] = 0
    """1 is the highest; 0 stands for the default."""
    timeout: Annotated[Count, Field(le=MAX_INTEGER)] = 0
    """Microseconds after which the answer is of no use any more; 0 for none."""


class InputTensor(BaseModel):
    name: str
    shape: Annotated[list[Annotated[int, Field(strict=True)]], Field(max_length=8)]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: Any = None


class RequestedOutput(BaseModel):
    name: str
    parameters: OutputParameters = OutputParameters()


class InferenceRequest(BaseModel):
    """Body of `POST …/infer`.

    Every list is bounded: Pydantic stops at its bound, and would else remember an error for each wrong element.
    """

    id: str | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=16)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=64)] | None = None


class BinarySize(BaseModel):
    binary_data_size: int


class OutputTensor(BaseModel):
    """One output: `data` in JSON, or the size of its bytes behind the JSON in `parameters`."""

    name: str
    datatype: str
    shape: list[int]
    parameters: BinarySize | None = None
    data: list[float] | list[str] | None = None


class ResponseParameters(BaseModel):
    provider: str = Field(description="the execution provider that ran")


class InferenceResponse(BaseModel):
    """Answer of `POST …/infer`."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    parameters: ResponseParameters
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


class ModelNames(BaseModel):
    """Answer of `GET /v2/models`."""

    models: list[str]


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


class ControlRequest(Described):
    """Body of `…/load` and `…/unload`."""

    parameters: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    """`unload_dependents` is without effect here: no model depends on another."""


class IndexEntry(BaseModel):
    name: str
    version: str
    state: str
    reason: str


def parse_json(body: bytes, max_values: int) -> Any:
    """Raises `BadRequestError` on anything but JSON, which knows no NaN and no infinity, and on far too much of it.

    What would be built is counted before it is: two bytes, `{}`, become an object of 64.
    """
    # No body has more values than bytes.
    if _has_more_objects(body) or (len(body) > max_values and _values(body) > max_values):
        raise BadRequestError(
            f"the request body has {body.count(b'{'):,} objects and {_values(body):,} values, expected at most "
            f"{MAX_OBJECTS:,} and {max_values:,} here: send fewer"
        )
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the request body is not JSON: {error}") from error


def _has_more_objects(body: bytes) -> bool:
    # Looking for the next of a few is many times quicker than counting.
    found = -1
    for _ in range(MAX_OBJECTS + 1):
        found = body.find(b"{", found + 1)
        if found < 0:
            return False
    return True


def _values(body: bytes) -> int:
    # Every value but the first of its list or object follows a comma.
    return body.count(b",") + body.count(b"[") + body.count(b"{")
