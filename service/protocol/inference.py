"""One inference request: a message → the input and the outputs to fetch; outputs → a message."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from models.manifest import TensorSpec
from service.errors import BadRequestError, explain
from service.protocol.binary import (
    DATATYPES,
    DTYPES,
    Message,
    read_elements,
    read_numbers,
    split,
    take,
    write_elements,
)
from service.protocol.classification import ranked
from service.protocol.envelope import InferenceRequest, InputTensor, RequestedOutput, TensorParameters, parse_json
from service.protocol.numbers import holds_words
from service.protocol.tensors import (
    check_count,
    check_shape,
    read_json_elements,
    read_json_tensor,
    write_json_tensor,
)

# Names, shapes, parameters, and text that looks like them.
VALUES_BESIDE_DATA = 10_000
# JSON that is remembered as it was read: so many of the last ones, of no more than so many bytes.
HEADS = 256
HEAD_BYTES = 1024
DATA = b'"data"'

Pixels = NDArray[np.float32]


class Wanted(NamedTuple):
    """One output, and the form to answer it in."""

    name: str
    binary: bool
    classes: int = 0
    """How many of the largest values to answer as strings; 0 for all, as numbers."""


class InferenceCall(NamedTuple):
    """What a request asks for, checked against the model."""

    id: str | None
    input: Pixels | list[bytes]
    """A tensor of pixel values, or encoded images."""
    wanted: tuple[Wanted, ...]
    outputs: tuple[str, ...]
    """The names of those that are wanted."""
    priority: int = 0
    """1 is the highest; 0 stands for the default."""
    timeout_us: int | None = None
    """Microseconds after which nobody waits for the answer."""


class _Head(NamedTuple):
    """What the JSON of a request says, checked against the model."""

    id: str | None
    input: InputTensor
    wanted: tuple[Wanted, ...]
    outputs: tuple[str, ...]
    priority: int
    timeout_us: int | None


# The input of a model, its outputs, the other outputs that it has, and the most images of a request.
_Context = tuple[TensorSpec, tuple[str, ...], tuple[str, ...], int]


class Reply(NamedTuple):
    body: bytes
    json_length: int | None
    """Bytes of JSON at the start of the body; None when it is nothing else."""


def read_request(
    body: bytes,
    spec: TensorSpec,
    default_outputs: Sequence[str],
    other_outputs: Sequence[str],
    max_batch: int,
    json_lengths: Sequence[str] = (),
) -> InferenceCall:
    """Read a request for a model with one input. A request that names no outputs gets the default ones.

    `json_lengths` are the values of the header `Inference-Header-Content-Length`. Raises `BadRequestError` saying what
    was wrong and what was expected.
    """
    message = split(body, json_lengths)
    if message.json is None:
        outputs = tuple(Wanted(name, binary=True) for name in default_outputs)
        return InferenceCall(None, _read_raw(message.binary, spec), outputs, tuple(default_outputs))
    context = (spec, tuple(default_outputs), tuple(other_outputs), max_batch)
    if len(message.json) > HEAD_BYTES and (flat := _read_flat(message, context)):
        return flat
    read = _read_head if len(message.json) > HEAD_BYTES else _remembered_head
    head = read(message.json, *context)
    return InferenceCall(head.id, _read_values(head.input, message), *head[2:])


def _read_flat(message: Message, context: _Context) -> InferenceCall | None:
    """Read JSON with one flat list of many numbers: what stands around them is short, and was often read before.

    None for whatever is not exactly that: then nothing is known of it, and all of it is read as one.
    """
    json = message.json
    assert json is not None
    key = json.find(DATA)
    start = json.find(b"[", key)
    end = json.find(b"]", start)
    if min(key, start, end) < 0 or json[key + len(DATA) : start].strip() != b":":
        return None
    if json.find(DATA, end) >= 0:  # it would count, and this one not
        return None
    around, numbers = json[: start + 1] + json[end:], json[start : end + 1]
    # Nor may the same name be written in another way, or there be anything but numbers in the list.
    if len(around) > HEAD_BYTES or b"\\" in around or b'"' in numbers or b"{" in numbers or numbers.find(b"[", 1) > 0:
        return None
    spec, _, _, max_batch = context
    # Fewer than in what would be refused; nobody gives them words.
    if numbers.count(b",") >= max_batch * math.prod(spec.shape[1:]) or holds_words(numbers) or message.binary:
        return None
    try:
        # Were the list not the input's data, that would not be empty now.
        head = _remembered_head(around, *context)
        data = orjson.loads(numbers)
    except (BadRequestError, orjson.JSONDecodeError):
        return None
    given = head.input
    if given.data != [] or given.datatype == "BYTES" or given.parameters.binary_data_size is not None:
        return None
    return InferenceCall(head.id, read_json_tensor(given.name, given.datatype, given.shape, data, True), *head[2:])


def write_response(
    call: InferenceCall,
    name: str,
    version: int,
    provider: str,
    values: Mapping[str, NDArray[Any]],
    labels: Mapping[str, Sequence[str]],
) -> Reply:
    """The answer, outputs in the order and the forms asked for; `labels` are the classes of the outputs that have some.

    Raises `BadRequestError` for values that JSON cannot carry.
    """
    if call.id is None and all(output.binary and not output.classes for output in call.wanted):
        arrays = [values[output.name] for output in call.wanted]
        forms = tuple(
            (output.name, array.dtype, array.shape) for output, array in zip(call.wanted, arrays, strict=True)
        )
        json = _binary_head(name, version, provider, forms)
        return Reply(b"".join((json, *map(_bytes_of, arrays))), len(json))
    written = [_write_output(output, values[output.name], labels.get(output.name, ())) for output in call.wanted]
    json = _write_head(call.id, name, version, provider, [entry for entry, _ in written])
    if not any(output.binary for output in call.wanted):
        return Reply(json, None)
    return Reply(b"".join((json, *(content for _, content in written))), len(json))


def _write_head(
    id: str | None,  # noqa: A002
    name: str,
    version: int,
    provider: str,
    outputs: Sequence[dict[str, Any]],
) -> bytes:
    response: dict[str, Any] = {"model_name": name, "model_version": str(version)}
    if id is not None:
        response["id"] = id
    response["parameters"] = {"provider": provider}
    response["outputs"] = outputs
    return orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)


@lru_cache(HEADS)
def _binary_head(
    name: str, version: int, provider: str, outputs: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]
) -> bytes:
    """The JSON before binary outputs of these names, types and shapes; it says nothing of their values."""
    entries = [_binary_entry(output, dtype, shape) for output, dtype, shape in outputs]
    return _write_head(None, name, version, provider, entries)


def _binary_entry(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> dict[str, Any]:
    size = math.prod(shape) * dtype.itemsize
    return {"name": name, "datatype": DATATYPES[dtype], "shape": shape, "parameters": {"binary_data_size": size}}


def _bytes_of(values: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values).data.cast("B")


def _read_head(
    json: bytes, spec: TensorSpec, default_outputs: tuple[str, ...], other_outputs: tuple[str, ...], max_batch: int
) -> _Head:
    # Each number may lie in a list of its own, and those in others.
    numbers = max_batch * math.prod(spec.shape[1:])
    try:
        request = InferenceRequest.model_validate(parse_json(json, len(spec.shape) * numbers + VALUES_BESIDE_DATA))
    except ValidationError as error:
        raise BadRequestError(explain(error)) from error
    given = _check_input(request.inputs, spec, max_batch)
    all_binary = request.parameters.binary_data_output
    wanted = _read_outputs(request.outputs, (*default_outputs, *other_outputs), all_binary)
    wanted = wanted or tuple(Wanted(name, all_binary) for name in default_outputs)
    names = tuple(output.name for output in wanted)
    return _Head(request.id, given, wanted, names, request.parameters.priority, request.parameters.timeout or None)


# A client says the same before each of its binary tensors.
_remembered_head = lru_cache(HEADS)(_read_head)


def _read_raw(content: memoryview, spec: TensorSpec) -> Pixels:
    """A body that is one tensor: of one image, and of the datatype that has as many bytes."""
    shape = (1, *spec.shape[1:])
    sizes = {math.prod(shape) * dtype.itemsize: datatype for datatype, dtype in DTYPES.items()}
    if len(content) not in sizes:
        expected = ", ".join(f"{size:,} ({datatype})" for size, datatype in sizes.items())
        raise BadRequestError(f"the raw tensor has {len(content):,} bytes, shape {list(shape)} needs {expected}")
    return _as_pixels(read_numbers(spec.name, sizes[len(content)], shape, content))


def _check_input(inputs: Sequence[InputTensor], spec: TensorSpec, max_batch: int) -> InputTensor:
    """The one input that there is to be."""
    _refuse_unknown_and_repeated("input", (given.name for given in inputs), (spec.name,))
    (given,) = inputs
    _refuse_shared_memory(given.name, given.parameters)
    if given.parameters.binary_data_size is not None and given.data is not None:
        raise BadRequestError(f"input {given.name!r} has both data and binary_data_size: send its values once")
    if given.datatype == "BYTES":
        check_count(given.name, given.shape, max_batch)
    else:
        check_shape(given.name, given.shape, spec.shape, max_batch)
    return given


def _read_values(given: InputTensor, message: Message) -> Pixels | list[bytes]:
    """Its values: in the JSON, or all that is behind it."""
    assert message.json is not None
    content = take(given.name, given.parameters.binary_data_size, message.binary)
    if given.datatype == "BYTES":
        count = given.shape[0]
        if content is None:
            return read_json_elements(given.name, count, given.data)
        return read_elements(given.name, count, content)
    if content is None:
        wordless = not holds_words(message.json)
        return read_json_tensor(given.name, given.datatype, given.shape, given.data, wordless)
    if given.datatype not in DTYPES:
        raise BadRequestError(
            f"input {given.name!r} has datatype {given.datatype!r}, expected {', '.join(DTYPES)} or BYTES"
        )
    return _as_pixels(read_numbers(given.name, given.datatype, given.shape, content))


def _as_pixels(tensor: NDArray[Any]) -> Pixels:
    return tensor.astype(np.float32, copy=False)


def _read_outputs(
    outputs: Sequence[RequestedOutput] | None, known: Sequence[str], all_binary: bool
) -> tuple[Wanted, ...]:
    outputs = outputs or ()
    _refuse_unknown_and_repeated("output", (output.name for output in outputs), known)
    for output in outputs:
        _refuse_shared_memory(output.name, output.parameters)
    return tuple(
        Wanted(
            output.name,
            all_binary if output.parameters.binary_data is None else output.parameters.binary_data,
            output.parameters.classification,
        )
        for output in outputs
    )


def _write_output(
    wanted: Wanted, values: NDArray[Any], labels: Sequence[str]
) -> tuple[dict[str, Any], bytes | memoryview]:
    """The object of one output, and what comes behind the JSON for it."""
    content: bytes | memoryview
    if wanted.classes:
        shape, strings = ranked(values, labels, wanted.classes)
        entry = {"name": wanted.name, "datatype": "BYTES", "shape": shape}
        if not wanted.binary:
            return {**entry, "data": strings}, b""
        content = write_elements(strings)
    elif wanted.binary:
        return _binary_entry(wanted.name, values.dtype, values.shape), _bytes_of(values)
    else:
        return write_json_tensor(wanted.name, values), b""
    return {**entry, "parameters": {"binary_data_size": len(content)}}, content


def _refuse_unknown_and_repeated(role: str, names: Iterable[str], known: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name not in known:
            raise BadRequestError(f"unknown {role} {name!r}; choose from {', '.join(known)}")
        if name in seen:
            raise BadRequestError(f"{role} {name!r} is named more than once")
        seen.add(name)


def _refuse_shared_memory(name: str, parameters: TensorParameters) -> None:
    if parameters.shared_memory_region is not None:
        raise BadRequestError(f"tensor {name!r} is to be in shared memory, which this service has not: send its bytes")
