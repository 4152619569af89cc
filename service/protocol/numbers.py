"""Lists of numbers, flat or nested, as JSON holds them → arrays."""

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BadRequestError


def holds_words(text: bytes) -> bool:
    """Whether `true` or `false` stands in a JSON text, as a value or within a string.

    They have letters that are rare in a text of numbers, and looking for one letter is many times quicker.
    """
    return _holds(text, b"u", b"true", 2) or _holds(text, b"l", b"false", 2)


def _holds(text: bytes, letter: bytes, word: bytes, offset: int) -> bool:
    found = text.find(letter)
    while found >= 0:
        if text.startswith(word, max(0, found - offset)):
            return True
        found = text.find(letter, found + 1)
    return False


def pack(shape: Sequence[int], data: Any, whole: bool) -> NDArray[Any] | None:
    """The numbers of `data`, flat or nested as `shape`, as bytes or as float32; if `whole`, only 0…255 are numbers.

    None for whatever is anything else: then `numbers` says what. Beyond the range of float32 they become infinite. Must
    not be given `true` or `false`, which it would take for 1 and 0.
    """
    flat = data if isinstance(data, list) else []
    if flat and isinstance(flat[0], list):
        flat = _flatten(flat, shape)
    if not flat or len(flat) != math.prod(shape):
        return None
    # The quickest ways from Python's numbers to a row of the processor's, by far.
    if isinstance(flat[0], int):
        try:
            return np.frombuffer(bytearray(flat), np.uint8)
        except (TypeError, ValueError):  # not all of them are integers, or within a byte
            pass
    try:
        return None if whole else np.frombuffer(struct.pack(f"{len(flat)}f", *flat), np.float32)
    except (struct.error, OverflowError):
        return None


def _flatten(data: list[Any], shape: Sequence[int]) -> list[Any]:
    """The elements of lists that are nested exactly as `shape` says; none if they are not."""
    for size in shape[1:]:
        if set(map(type, data)) != {list} or set(map(len, data)) != {size}:
            return []
        data = list(chain.from_iterable(data))
    return data


def numbers(name: str, data: Any) -> NDArray[Any]:
    """An array as `data` is nested; raises `BadRequestError` for what is uneven, or not made of numbers alone."""
    problem = f"the data of input {name!r} is not a flat or evenly nested list of numbers"
    if not isinstance(data, list):
        raise BadRequestError(problem)
    try:
        # No dtype: NumPy would turn "1" into 1 and null into NaN if it were told to make numbers.
        array = np.asarray(data)
        # It would also turn true beside 2 into 1.
        mixed = bool in set(map(type, np.asarray(data, object).flat))
    except ValueError as error:  # ragged or too deep
        raise BadRequestError(problem) from error
    if mixed or array.dtype.kind not in "iuf" or array.size == 0:
        raise BadRequestError(problem)
    return array
