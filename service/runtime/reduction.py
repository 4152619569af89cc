"""One compiled pass over the activations of a batch: the values of `models.statistics.layout`, per image and channel.

Two layouts are read where they lie. In NCHW a *plane* is one channel, H×W numbers. In ONNX Runtime's blocked layout it
is a block of 8 or 16 channels, H×W×block numbers, channels innermost; channels beyond the last are padding, and what
lies there is never looked at. Sums are kept in float32 for at most 32 additions and then added up in float64, so
means are within 1e-6 of a float64 sum, relative to the mean of |x|. A NaN or infinity makes the mean square of its own
channel not finite, and of no other.
"""

import ctypes
import functools
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.native import NativeCode

TENSOR = np.dtype(
    [
        ("start", np.int64),  # in the buffer of a batch of one, in floats; n times that for a batch of n
        ("shortcut", np.int64),  # start of what is subtracted, -1 if it is no block's end
        ("size", np.int64),  # floats an image, padding among them
        ("channels", np.int64),  # without padding
        ("positions", np.int64),  # H×W
        ("block", np.int64),  # channels of a plane: 1, 8 or 16
        ("mean", np.int64),  # first column of each result, -1 if there is none
        ("mean_square", np.int64),
        ("active", np.int64),
        ("maximum", np.int64),
        ("minimum", np.int64),
        ("saturated", np.int64),
        ("inactive", np.int64),  # 1 − active
        ("branch_energy", np.int64),
        ("shortcut_energy", np.int64),
        ("below", np.float32),  # saturated: x ≤ below or x ≥ above
        ("above", np.float32),
    ]
)
"""What is to be computed from one tensor, and where the results go."""

_loading = threading.Lock()

# The scratch that collects a plane: float64 sums, and float32 extremes.
ROWS = 6
COLUMNS = 16

ENTRY = "reduce_tensors"
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64
# Called without the GIL.
_SIGNATURE = ctypes.CFUNCTYPE(
    None,
    *(_POINTER, _NUMBER),
    *(_POINTER, _NUMBER, _NUMBER, _NUMBER),
    *(_POINTER, _NUMBER, _NUMBER),
    _POINTER,
    _POINTER,
)


def reduce_tensors(
    x: NDArray[np.float32], tensors: NDArray[np.void], first: int, stop: int, results: NDArray[np.float32]
) -> None:
    """Reduce steps `first` to `stop`, of which step i·len(tensors) + t is tensor t of image i, into `results`.

    `x` float32, all tensors in one buffer; `tensors` of `TENSOR`; `results` images × columns float32.
    """
    assert x.dtype == results.dtype == np.float32, (x.dtype, results.dtype)
    assert tensors.dtype == TENSOR, tensors.dtype
    flags = (x.flags, tensors.flags, results.flags)
    assert all(flag.c_contiguous for flag in flags), "the compiled pass reads memory as it lies"
    sums, extremes = np.empty(ROWS * COLUMNS, np.float64), np.empty(2 * COLUMNS, np.float32)
    _entry()(
        *(x.ctypes.data, x.size),
        *(tensors.ctypes.data, len(tensors), first, stop),
        *(results.ctypes.data, *results.shape),
        *(sums.ctypes.data, extremes.ctypes.data),
    )


def code() -> NativeCode:
    """The machine code of the pass, compiled if no start before has; the same for all threads, as long as they live."""
    # Threads share the first run too. A cache alone would let each load its own and keep one: the functions of the
    # others would be gone while they are called.
    with _loading:
        return _load()


@functools.cache
def _load() -> NativeCode:
    return NativeCode.of("service.runtime.planes", "service.runtime.lanes", __name__)


@functools.cache
def _entry() -> Any:
    return _SIGNATURE(code().address(ENTRY))
