"""Tensor contents in JSON: nested or flat lists of numbers ↔ arrays."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BadRequestError

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


def read_json_tensor(name: str, datatype: str, shape: Sequence[int], data: Any) -> NDArray[np.float32]:
    """Turn `data`, flat or nested like `shape`, into a float32 array of `shape`.

    Raises `BadRequestError` when it is not made of as many numbers as the shape says, or of numbers that the datatype
    does not have.
    """
    if datatype not in JSON_DATATYPES:
        raise BadRequestError(
            f"input {name!r} has datatype {datatype!r}, expected {' or '.join(JSON_DATATYPES)} in JSON"
        )
    numbers = _numbers(name, data)
    if numbers.ndim != 1 and numbers.shape != tuple(shape):
        raise BadRequestError(
            f"the data of input {name!r} is nested as {list(numbers.shape)}, expected {list(shape)} or a flat list"
        )
    if numbers.size != math.prod(shape):
        raise BadRequestError(
            f"the data of input {name!r} has {numbers.size} numbers, shape {list(shape)} needs {math.prod(shape)}"
        )
    if datatype == "UINT8" and (numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() > 255):
        raise BadRequestError(f"the data of input {name!r} has datatype UINT8, expected whole numbers from 0 to 255")
    with np.errstate(over="ignore"):
        tensor = numbers.astype(np.float32).reshape(shape)
    if not np.isfinite(tensor).all():
        raise BadRequestError(f"the data of input {name!r} holds numbers beyond the range of FP32")
    return tensor


def write_json_tensor(name: str, tensor: NDArray[np.float32]) -> dict[str, Any]:
    """The output object of the protocol; its data is left to a JSON encoder that knows arrays.

    Raises `BadRequestError` for NaN and infinity, which JSON cannot carry.
    """
    if not np.isfinite(tensor).all():
        raise BadRequestError(
            f"output {name!r} holds NaN or infinity, which JSON cannot carry: check the input, "
            "or use binary tensors once this service offers them"
        )
    return {"name": name, "datatype": "FP32", "shape": tensor.shape, "data": np.ascontiguousarray(tensor).ravel()}


def _numbers(name: str, data: Any) -> NDArray[Any]:
    problem = f"the data of input {name!r} is not a flat or evenly nested list of numbers"
    if not isinstance(data, list):
        raise BadRequestError(problem)
    try:
        # No dtype: NumPy would turn "1" into 1 and null into NaN if it were told to make numbers.
        numbers = np.asarray(data)
        # It would also turn true beside 2 into 1.
        mixed = bool in set(map(type, np.asarray(data, object).flat))
    except ValueError as error:  # ragged or too deep
        raise BadRequestError(problem) from error
    if mixed or numbers.dtype.kind not in "iuf" or numbers.size == 0:
        raise BadRequestError(problem)
    return numbers
