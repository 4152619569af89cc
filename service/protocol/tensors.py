"""Tensor contents in JSON: nested or flat lists of numbers ↔ arrays."""

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BadRequestError
from service.protocol.numbers import numbers, pack

# What a client may send for pixel values; FP16 has no JSON form in the protocol.
JSON_DATATYPES = ("FP32", "UINT8")


def check_shape(name: str, shape: Sequence[int], expected: Sequence[int], max_batch: int) -> None:
    """Raise `BadRequestError` unless `shape` is `expected`, whose −1 stands for 1…`max_batch`."""
    fits = len(shape) == len(expected) and all(
        1 <= size <= max_batch if wanted == -1 else size == wanted for size, wanted in zip(shape, expected, strict=True)
    )
    if not fits:
        wanted = [f"1…{max_batch}" if size == -1 else str(size) for size in expected]
        raise BadRequestError(f"input {name!r} has shape {list(shape)}, expected [{', '.join(wanted)}]")


def check_count(name: str, shape: Sequence[int], max_batch: int) -> int:
    """The number of images in a BYTES tensor; raises `BadRequestError` unless its shape is [N] or [N, 1]."""
    if len(shape) not in (1, 2) or not 1 <= shape[0] <= max_batch or shape[1:] not in ([], [1]):
        raise BadRequestError(
            f"input {name!r} has datatype BYTES and shape {list(shape)}, "
            f"expected [1…{max_batch}] or [1…{max_batch}, 1]: one encoded image in each element"
        )
    return shape[0]


def read_json_elements(name: str, count: int, data: Any) -> list[bytes]:
    """The elements of a BYTES tensor in JSON, where bytes are base64: in one list, or in one of lists.

    Raises `BadRequestError` unless `data` is `count` strings of base64.
    """
    elements = data if isinstance(data, list) else []
    if all(isinstance(element, list) for element in elements):
        elements = [inner for element in elements for inner in element]
    if len(elements) != count or not all(isinstance(element, str) for element in elements):
        raise BadRequestError(f"the data of input {name!r} is not {count} strings: send each image as base64")
    try:
        return [base64.b64decode(element, validate=True) for element in elements]
    except ValueError as error:
        raise BadRequestError(f"the data of input {name!r} is not base64: {error}") from error


def read_json_tensor(
    name: str, datatype: str, shape: Sequence[int], data: Any, wordless: bool = False
) -> NDArray[np.float32]:
    """Turn `data`, flat or nested like `shape`, into a float32 array of `shape`.

    It takes a fraction of the time where it is known that neither true nor false is in it: `wordless`. Raises
    `BadRequestError` when it is not made of as many numbers as the shape says, or of numbers that the datatype does not
    have.
    """
    if datatype not in JSON_DATATYPES:
        raise BadRequestError(
            f"input {name!r} has datatype {datatype!r}, expected {' or '.join(JSON_DATATYPES)} in JSON"
            + (": send FP16 as a binary tensor" if datatype == "FP16" else "")
        )
    values = pack(shape, data, datatype == "UINT8") if wordless else None
    if values is None:
        values = _checked(name, datatype, shape, numbers(name, data))
    if values.dtype == np.uint8:
        return values.astype(np.float32).reshape(shape)
    with np.errstate(over="ignore"):
        tensor = values.astype(np.float32, copy=False).reshape(shape)
    if not np.isfinite(tensor).all():
        raise BadRequestError(f"the data of input {name!r} holds numbers beyond the range of FP32")
    return tensor


def write_json_tensor(name: str, tensor: NDArray[Any]) -> dict[str, Any]:
    """The output object of the protocol; its data is left to a JSON encoder that knows arrays.

    Raises `BadRequestError` for NaN and infinity, and for FP16, which JSON cannot carry.
    """
    if tensor.dtype != np.float32:
        raise BadRequestError(f"output {name!r} is FP16, which never travels as JSON: ask for it with binary_data")
    if not np.isfinite(tensor).all():
        raise BadRequestError(
            f"output {name!r} holds NaN or infinity, which JSON cannot carry: check the input, "
            "or ask for the output with binary_data"
        )
    return {"name": name, "datatype": "FP32", "shape": tensor.shape, "data": np.ascontiguousarray(tensor).ravel()}


def _checked(name: str, datatype: str, shape: Sequence[int], values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim != 1 and values.shape != tuple(shape):
        raise BadRequestError(
            f"the data of input {name!r} is nested as {list(values.shape)}, expected {list(shape)} or a flat list"
        )
    if values.size != math.prod(shape):
        raise BadRequestError(
            f"the data of input {name!r} has {values.size} numbers, shape {list(shape)} needs {math.prod(shape)}"
        )
    if datatype == "UINT8" and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255):
        raise BadRequestError(f"the data of input {name!r} has datatype UINT8, expected whole numbers from 0 to 255")
    return values
