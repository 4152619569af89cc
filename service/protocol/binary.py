"""Binary tensors: raw bytes behind the JSON of a message, in the order of its tensors, little-endian and row-major."""

import math
import re
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import BadRequestError

HEADER = "Inference-Header-Content-Length"
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(code) for name, code in (("FP32", "<f4"), ("FP16", "<f2"), ("UINT8", "u1"))
}
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}

# Lengths that are remembered as they were read: a client sends few of them.
LENGTHS = 256

_LENGTH = re.compile(r"[0-9]{1,18}")
_PREFIX = struct.Struct("<I")


class Message(NamedTuple):
    """A body in its two parts."""

    json: bytes | None
    """None when the body is one raw tensor."""
    binary: memoryview


def split(body: bytes, lengths: Sequence[str]) -> Message:
    """Take a body apart where the header `Inference-Header-Content-Length`, given as often as it was sent, says.

    Without the header all is JSON; a length of 0 means one raw tensor without any. Raises `BadRequestError` for what is
    no length, or one beyond the body.
    """
    if not lengths:
        return Message(body, memoryview(b""))
    length = _length(tuple(lengths))
    if length > len(body):
        raise BadRequestError(f"{HEADER} is {length:,}, and the whole body has {len(body):,} bytes")
    return Message(body[:length] if length else None, memoryview(body)[length:])


@lru_cache(LENGTHS)
def _length(lengths: tuple[str, ...]) -> int:
    if len(set(lengths)) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise BadRequestError(f"{HEADER} is {', '.join(lengths)[:80]!r}, expected the number of bytes of the JSON")
    return int(lengths[0])


def take(name: str, size: int | None, binary: memoryview) -> memoryview | None:
    """The bytes behind the JSON: those of the one input, if it has its `binary_data_size`; else there must be none.

    Raises `BadRequestError` if they are not as many.
    """
    left = len(binary)
    if size is not None and size > left:
        raise BadRequestError(
            f"input {name!r} has binary_data_size {size:,}, and {left:,} bytes are left behind the "
            f"JSON: send them all, and the length of the JSON in the header {HEADER}"
        )
    if left != (size or 0):
        raise BadRequestError(
            f"{left - (size or 0):,} bytes at the end of the body belong to no input: give each binary input its "
            f"parameter binary_data_size, and the length of the JSON in the header {HEADER}"
        )
    return None if size is None else binary


def read_numbers(name: str, datatype: str, shape: Sequence[int], content: memoryview) -> NDArray[Any]:
    """See bytes as an array of `shape`: no copy, unless they lie where the processor cannot read them as numbers.

    NaN and infinity are numbers here. Raises `BadRequestError` when the bytes are not as many as the shape needs.
    """
    dtype = DTYPES[datatype]
    needed = math.prod(shape) * dtype.itemsize
    if len(content) != needed:
        raise BadRequestError(
            f"input {name!r} has {len(content):,} bytes, shape {list(shape)} of {datatype} needs {needed:,}"
        )
    values = np.frombuffer(content, dtype).reshape(shape)
    return values if values.flags.aligned else values.copy()


def read_elements(name: str, count: int, content: memoryview) -> list[bytes]:
    """Take `count` elements of a BYTES tensor apart, each behind its length in four bytes; raises `BadRequestError`."""
    elements: list[bytes] = []
    start = 0
    while start < len(content) and len(elements) < count:
        size = _PREFIX.unpack_from(content, start)[0] if start + _PREFIX.size <= len(content) else len(content)
        start += _PREFIX.size
        if start + size > len(content):
            raise BadRequestError(
                f"element {len(elements)} of input {name!r} is longer than what is left of its bytes: "
                "put its length before it, as four bytes, little-endian"
            )
        elements.append(bytes(content[start : start + size]))
        start += size
    if start != len(content) or len(elements) != count:
        raise BadRequestError(
            f"input {name!r} has {len(elements)} elements in {start:,} of its {len(content):,} bytes, "
            f"expected {count} in all"
        )
    return elements


def write_elements(elements: Sequence[str]) -> bytes:
    """The bytes of a BYTES tensor."""
    encoded = [element.encode() for element in elements]
    return b"".join(part for element in encoded for part in (_PREFIX.pack(len(element)), element))
