"""Arrays by name ↔ bytes: a compressed NumPy archive that can hold no pickled object."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Compress; what is equal gives equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(content: bytes, what: str) -> Arrays:
    """Read what `pack` wrote; raises `ValueError` that begins with `what` for anything else."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:
        # One error for the caller: what NumPy and zipfile stumble over in damaged bytes is a dozen kinds of them.
        raise ValueError(f"{what} cannot be read ({type(error).__name__}: {error})") from error


def with_prefix(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Move arrays into a folder of the archive."""
    return {f"{prefix}/{name}": values for name, values in arrays.items()}


def below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """The arrays of a folder of the archive."""
    start = f"{prefix}/"
    return {name.removeprefix(start): values for name, values in arrays.items() if name.startswith(start)}
