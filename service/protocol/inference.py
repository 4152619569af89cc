"""One inference request: bytes of JSON → the tensor to run and the outputs to fetch; outputs → bytes of JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from models.manifest import TensorSpec
from service.errors import BadRequestError, explain
from service.protocol.envelope import InferenceRequest, InputTensor, Parameters, RequestedOutput, parse_json
from service.protocol.tensors import check_shape, read_json_tensor, write_json_tensor

NO_BINARY = (
    "binary tensors are not supported yet: send and ask for JSON "
    "(tritonclient: binary_data=False for every input and for every output, which must be listed)"
)


# Names, shapes, parameters, and text that looks like them.
VALUES_BESIDE_DATA = 10_000


class InferenceCall(NamedTuple):
    """What a request asks for, checked against the model."""

    id: str | None
    tensor: NDArray[np.float32]
    outputs: tuple[str, ...]


def read_request(
    body: bytes, spec: TensorSpec, default_outputs: Sequence[str], other_outputs: Sequence[str], max_batch: int
) -> InferenceCall:
    """Read a request for a model with one input. A request that names no outputs gets the default ones.

    Raises `BadRequestError` saying what was wrong and what was expected.
    """
    # Each number may lie in a list of its own, and those in others.
    numbers = max_batch * math.prod(spec.shape[1:])
    try:
        request = InferenceRequest.model_validate(parse_json(body, len(spec.shape) * numbers + VALUES_BESIDE_DATA))
    except ValidationError as error:
        raise BadRequestError(explain(error)) from error
    _refuse_binary(request.parameters, "binary_data_output")
    tensor = _read_input(request.inputs, spec, max_batch)
    outputs = _read_outputs(request.outputs, (*default_outputs, *other_outputs)) or tuple(default_outputs)
    return InferenceCall(request.id, tensor, outputs)


def write_response(
    call: InferenceCall, name: str, version: int, provider: str, values: Mapping[str, NDArray[np.float32]]
) -> bytes:
    """The answer, outputs in the order asked for; raises `BadRequestError` for values that JSON cannot carry."""
    response: dict[str, Any] = {"model_name": name, "model_version": str(version)}
    if call.id is not None:
        response["id"] = call.id
    response["parameters"] = {"provider": provider}
    response["outputs"] = [write_json_tensor(output, values[output]) for output in call.outputs]
    return orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)


def _read_input(inputs: Sequence[InputTensor], spec: TensorSpec, max_batch: int) -> NDArray[np.float32]:
    _refuse_unknown_and_repeated("input", (given.name for given in inputs), (spec.name,))
    (given,) = inputs
    _refuse_binary(given.parameters, "binary_data_size")
    check_shape(given.name, given.shape, spec.shape, max_batch)
    return read_json_tensor(given.name, given.datatype, given.shape, given.data)


def _read_outputs(outputs: Sequence[RequestedOutput] | None, known: Sequence[str]) -> tuple[str, ...]:
    names = tuple(output.name for output in outputs or ())
    _refuse_unknown_and_repeated("output", names, known)
    for output in outputs or ():
        _refuse_binary(output.parameters, "binary_data")
        if "classification" in output.parameters:
            raise BadRequestError("output parameter 'classification' is not supported: use /v1/models/{name}/classify")
    return names


def _refuse_unknown_and_repeated(role: str, names: Iterable[str], known: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name not in known:
            raise BadRequestError(f"unknown {role} {name!r}; choose from {', '.join(known)}")
        if name in seen:
            raise BadRequestError(f"{role} {name!r} is named more than once")
        seen.add(name)


def _refuse_binary(parameters: Parameters, key: str) -> None:
    # `false` asks for JSON; a size of 0 is a binary tensor too.
    if key in parameters and parameters[key] is not False:
        raise BadRequestError(f"parameter {key!r}: {NO_BINARY}")
