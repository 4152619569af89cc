"""One compiled pass over the activations of a batch: the values of `models.statistics.layout`, per image and channel.

Two layouts are read where they lie. In NCHW a *plane* is one channel, H×W numbers. In ONNX Runtime's blocked layout it
is a block of 8 or 16 channels, H×W×block numbers, channels innermost; channels beyond the last are padding, and what
lies there is never looked at. Sums are kept in float32 for at most 32 additions and then added up in float64, so
means are within 1e-6 of a float64 sum, relative to the mean of |x|. A NaN or infinity makes the mean square of its own
channel not finite, and of no other.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

from service.runtime.lanes import (
    WIDTH,
    accumulate,
    add,
    add_square,
    count_above,
    count_from,
    count_to,
    largest_of_all,
    least_of_all,
    load,
    maximum,
    minimum,
    splat,
    store,
    subtract,
    sum_of_all,
)

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

# Rows of the scratch that collects a plane, one column a lane. Odd vectors have lanes of their own, for in blocks of 16
# they are other channels.
_SUM, _SQUARES, _ACTIVE, _SATURATED, _BRANCH, _SHORTCUT = range(6)
_MAXIMUM, _MINIMUM = range(2)
_COLUMNS = 2 * WIDTH
# Vectors that are summed in float32; 2 vectors of 4 are added to each other first.
_CHUNK = 128

_F = TypeVar("_F", bound=Callable[..., Any])


def _entry(function: _F) -> _F:
    """Compile at the first call, without the GIL; kept on disk where numba finds a directory it may write."""
    try:
        compiled: _F = numba.njit(function, nogil=True, cache=True, error_model="numpy")
    except RuntimeError:  # a read-only installation and home: compiled in memory, once a process
        compiled = numba.njit(function, nogil=True, error_model="numpy")
    return compiled


def _part(function: _F) -> _F:
    """Compile into those that call it; Python cannot call it, which saves half of the time."""
    compiled: _F = numba.njit(function, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
    return compiled


def _summing(signed: bool) -> Callable[..., None]:
    """The pass that every site has; the minimum is only looked for where there is one."""

    @_part
    def sum_chunk(x: Any, first: int, vectors: int, sums: Any, extremes: Any) -> None:
        zero = splat(np.float32(0))
        sum0 = sum1 = squares0 = squares1 = active0 = active1 = zero
        high0, high1 = load(extremes, 0), load(extremes, WIDTH)
        low0, low1 = load(extremes, _COLUMNS), load(extremes, _COLUMNS + WIDTH)
        whole = vectors - vectors % 4
        for vector in range(0, whole, 4):
            at = first + vector * WIDTH
            a, b, c, d = load(x, at), load(x, at + WIDTH), load(x, at + 2 * WIDTH), load(x, at + 3 * WIDTH)
            sum0, sum1 = add(sum0, add(a, c)), add(sum1, add(b, d))
            squares0, squares1 = add_square(squares0, a), add_square(squares1, b)
            squares0, squares1 = add_square(squares0, c), add_square(squares1, d)
            active0, active1 = count_above(active0, a, zero), count_above(active1, b, zero)
            active0, active1 = count_above(active0, c, zero), count_above(active1, d, zero)
            high0, high1 = maximum(c, maximum(a, high0)), maximum(d, maximum(b, high1))
            if signed:
                low0, low1 = minimum(c, minimum(a, low0)), minimum(d, minimum(b, low1))
        for vector in range(whole, vectors):
            a = load(x, first + vector * WIDTH)
            if vector % 2 == 0:
                sum0, squares0, active0 = add(sum0, a), add_square(squares0, a), count_above(active0, a, zero)
                high0, low0 = maximum(a, high0), minimum(a, low0)
            else:
                sum1, squares1, active1 = add(sum1, a), add_square(squares1, a), count_above(active1, a, zero)
                high1, low1 = maximum(a, high1), minimum(a, low1)
        accumulate(sums, _SUM * _COLUMNS, sum0)
        accumulate(sums, _SUM * _COLUMNS + WIDTH, sum1)
        accumulate(sums, _SQUARES * _COLUMNS, squares0)
        accumulate(sums, _SQUARES * _COLUMNS + WIDTH, squares1)
        accumulate(sums, _ACTIVE * _COLUMNS, active0)
        accumulate(sums, _ACTIVE * _COLUMNS + WIDTH, active1)
        store(extremes, 0, high0)
        store(extremes, WIDTH, high1)
        store(extremes, _COLUMNS, low0)
        store(extremes, _COLUMNS + WIDTH, low1)

    return sum_chunk


_sum_signed = _summing(signed=True)
_sum_unsigned = _summing(signed=False)


@_part
def _saturated_chunk(x: Any, first: int, vectors: int, below: float, above: float, sums: Any) -> None:
    to, start = splat(below), splat(above)
    count0 = count1 = splat(np.float32(0))
    for vector in range(0, vectors, 2):
        a = load(x, first + vector * WIDTH)
        count0 = count_from(count_to(count0, a, to), a, start)
        if vector + 1 < vectors:
            b = load(x, first + (vector + 1) * WIDTH)
            count1 = count_from(count_to(count1, b, to), b, start)
    accumulate(sums, _SATURATED * _COLUMNS, count0)
    accumulate(sums, _SATURATED * _COLUMNS + WIDTH, count1)


@_part
def _energy_chunk(x: Any, first: int, shortcut: int, vectors: int, sums: Any) -> None:
    branch0 = branch1 = shortcut0 = shortcut1 = splat(np.float32(0))
    for vector in range(0, vectors, 2):
        s = load(x, shortcut + vector * WIDTH)
        branch0 = add_square(branch0, subtract(load(x, first + vector * WIDTH), s))
        shortcut0 = add_square(shortcut0, s)
        if vector + 1 < vectors:
            s = load(x, shortcut + (vector + 1) * WIDTH)
            branch1 = add_square(branch1, subtract(load(x, first + (vector + 1) * WIDTH), s))
            shortcut1 = add_square(shortcut1, s)
    accumulate(sums, _BRANCH * _COLUMNS, branch0)
    accumulate(sums, _BRANCH * _COLUMNS + WIDTH, branch1)
    accumulate(sums, _SHORTCUT * _COLUMNS, shortcut0)
    accumulate(sums, _SHORTCUT * _COLUMNS + WIDTH, shortcut1)


@_part
def _sum_vectors(x: Any, first: int, shortcut: int, vectors: int, tensor: Any, sums: Any, extremes: Any) -> None:
    """Collect the whole vectors of a plane, chunk by chunk, so that further passes find them in the cache."""
    for done in range(0, vectors, _CHUNK):
        some = min(_CHUNK, vectors - done)
        at = first + done * WIDTH
        if tensor.minimum >= 0:
            _sum_signed(x, at, some, sums, extremes)
        elif tensor.mean >= 0:
            _sum_unsigned(x, at, some, sums, extremes)
        if tensor.saturated >= 0:
            _saturated_chunk(x, at, some, tensor.below, tensor.above, sums)
        if tensor.shortcut >= 0:
            _energy_chunk(x, at, shortcut + done * WIDTH, some, sums)


@_part
def _sum_rest(x: Any, first: int, shortcut: int, rest: int, tensor: Any, sums: Any, extremes: Any) -> None:
    """Collect the last numbers of an NCHW plane, fewer than a vector."""
    for index in range(rest):
        value = x[first + index]
        double = np.float64(value)
        sums[_SUM * _COLUMNS + index] += double
        sums[_SQUARES * _COLUMNS + index] += double * double
        sums[_ACTIVE * _COLUMNS + index] += value > 0
        extremes[index] = value if value > extremes[index] else extremes[index]
        low = _COLUMNS + index
        extremes[low] = value if value < extremes[low] else extremes[low]
        sums[_SATURATED * _COLUMNS + index] += (value <= tensor.below) or (value >= tensor.above)
        if tensor.shortcut >= 0:
            other = np.float64(x[shortcut + index])
            sums[_BRANCH * _COLUMNS + index] += (double - other) * (double - other)
            sums[_SHORTCUT * _COLUMNS + index] += other * other


@_part
def _fold(sums: Any, rows: int, extremes: Any, block: int) -> None:
    """Leave in the first `block` lanes what the lanes that belong to the same channel have collected."""
    if block == 1:
        for row in range(rows):
            sums[row * _COLUMNS] = sum_of_all(sums, row * _COLUMNS)
        extremes[0] = largest_of_all(extremes, 0)
        extremes[_COLUMNS] = least_of_all(extremes, _COLUMNS)
    elif block == WIDTH:
        for row in range(rows):
            for lane in range(row * _COLUMNS, row * _COLUMNS + WIDTH):
                sums[lane] += sums[lane + WIDTH]
        store(extremes, 0, maximum(load(extremes, 0), load(extremes, WIDTH)))
        store(extremes, _COLUMNS, minimum(load(extremes, _COLUMNS), load(extremes, _COLUMNS + WIDTH)))


@_part
def _write(tensor: Any, channel: int, channels: int, sums: Any, extremes: Any, row: Any) -> None:
    share = 1 / np.float64(tensor.positions)
    if tensor.mean >= 0:
        for lane in range(channels):
            row[tensor.mean + channel + lane] = sums[_SUM * _COLUMNS + lane] * share
            row[tensor.mean_square + channel + lane] = sums[_SQUARES * _COLUMNS + lane] * share
            row[tensor.active + channel + lane] = sums[_ACTIVE * _COLUMNS + lane] * share
            row[tensor.maximum + channel + lane] = extremes[lane]
    if tensor.inactive >= 0:
        for lane in range(channels):
            row[tensor.inactive + channel + lane] = 1 - row[tensor.active + channel + lane]
    if tensor.minimum >= 0:
        for lane in range(channels):
            row[tensor.minimum + channel + lane] = extremes[_COLUMNS + lane]
    if tensor.saturated >= 0:
        for lane in range(channels):
            row[tensor.saturated + channel + lane] = sums[_SATURATED * _COLUMNS + lane] * share


@_part
def _reduce_image(x: Any, tensor: Any, batch: int, image: int, sums: Any, extremes: Any, row: Any) -> None:
    numbers = tensor.positions * tensor.block
    vectors = numbers // WIDTH
    rest = vectors * WIDTH
    rows = 6 if tensor.shortcut >= 0 or tensor.saturated >= 0 else 3
    branch = shortcut = 0.0
    for channel in range(0, tensor.channels, tensor.block):
        sums[:] = 0
        extremes[:_COLUMNS] = -np.inf
        extremes[_COLUMNS:] = np.inf
        offset = image * tensor.size + channel // tensor.block * numbers
        first, other = batch * tensor.start + offset, batch * tensor.shortcut + offset
        _sum_vectors(x, first, other, vectors, tensor, sums, extremes)
        _sum_rest(x, first + rest, other + rest, numbers - rest, tensor, sums, extremes)
        _fold(sums, rows, extremes, tensor.block)
        channels = min(tensor.block, tensor.channels - channel)
        _write(tensor, channel, channels, sums, extremes, row)
        for lane in range(channels):
            branch += sums[_BRANCH * _COLUMNS + lane]
            shortcut += sums[_SHORTCUT * _COLUMNS + lane]
    if tensor.shortcut >= 0:
        share = 1 / np.float64(tensor.positions * tensor.channels)
        row[tensor.branch_energy] = branch * share
        row[tensor.shortcut_energy] = shortcut * share


@_entry
def reduce_tensors(x: Any, tensors: Any, first: int, stop: int, results: Any) -> None:
    """Reduce steps `first` to `stop`, of which step i·len(tensors) + t is tensor t of image i, into `results`.

    `x` float32, all tensors in one buffer; `tensors` of `TENSOR`; `results` images × columns float32.
    """
    sums = np.empty(6 * _COLUMNS, np.float64)
    extremes = np.empty(2 * _COLUMNS, np.float32)
    for step in range(first, stop):
        # Image by image: a shortcut is then still in the cache when its block's end is read.
        image = step // len(tensors)
        _reduce_image(x, tensors[step % len(tensors)], len(results), image, sums, extremes, results[image])
