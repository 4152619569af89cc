"""The one pass of `service.runtime.reduction`, as numba compiles it.

Nothing here can raise or take memory, so that all that is left of it is machine code, and numba is needed to make it
and not to run it: LLVM finds both out when it sees the functions together.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import binding as llvm

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
from service.runtime.reduction import COLUMNS, ENTRY, ROWS, TENSOR

# Rows of the scratch that collects a plane, one column a lane. Odd vectors have lanes of their own, for in blocks of 16
# they are other channels.
_SUM, _SQUARES, _ACTIVE, _SATURATED, _BRANCH, _SHORTCUT = range(ROWS)
# Vectors that are summed in float32; 2 vectors of 4 are added to each other first.
_CHUNK = 128

_F = TypeVar("_F", bound=Callable[..., Any])


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
        low0, low1 = load(extremes, COLUMNS), load(extremes, COLUMNS + WIDTH)
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
        accumulate(sums, _SUM * COLUMNS, sum0)
        accumulate(sums, _SUM * COLUMNS + WIDTH, sum1)
        accumulate(sums, _SQUARES * COLUMNS, squares0)
        accumulate(sums, _SQUARES * COLUMNS + WIDTH, squares1)
        accumulate(sums, _ACTIVE * COLUMNS, active0)
        accumulate(sums, _ACTIVE * COLUMNS + WIDTH, active1)
        store(extremes, 0, high0)
        store(extremes, WIDTH, high1)
        store(extremes, COLUMNS, low0)
        store(extremes, COLUMNS + WIDTH, low1)

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
    accumulate(sums, _SATURATED * COLUMNS, count0)
    accumulate(sums, _SATURATED * COLUMNS + WIDTH, count1)


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
    accumulate(sums, _BRANCH * COLUMNS, branch0)
    accumulate(sums, _BRANCH * COLUMNS + WIDTH, branch1)
    accumulate(sums, _SHORTCUT * COLUMNS, shortcut0)
    accumulate(sums, _SHORTCUT * COLUMNS + WIDTH, shortcut1)


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
        sums[_SUM * COLUMNS + index] += double
        sums[_SQUARES * COLUMNS + index] += double * double
        sums[_ACTIVE * COLUMNS + index] += value > 0
        extremes[index] = value if value > extremes[index] else extremes[index]
        low = COLUMNS + index
        extremes[low] = value if value < extremes[low] else extremes[low]
        sums[_SATURATED * COLUMNS + index] += (value <= tensor.below) or (value >= tensor.above)
        if tensor.shortcut >= 0:
            other = np.float64(x[shortcut + index])
            sums[_BRANCH * COLUMNS + index] += (double - other) * (double - other)
            sums[_SHORTCUT * COLUMNS + index] += other * other


@_part
def _fold(sums: Any, rows: int, extremes: Any, block: int) -> None:
    """Leave in the first `block` lanes what the lanes that belong to the same channel have collected."""
    if block == 1:
        for row in range(rows):
            sums[row * COLUMNS] = sum_of_all(sums, row * COLUMNS)
        extremes[0] = largest_of_all(extremes, 0)
        extremes[COLUMNS] = least_of_all(extremes, COLUMNS)
    elif block == WIDTH:
        for row in range(rows):
            for lane in range(row * COLUMNS, row * COLUMNS + WIDTH):
                sums[lane] += sums[lane + WIDTH]
        store(extremes, 0, maximum(load(extremes, 0), load(extremes, WIDTH)))
        store(extremes, COLUMNS, minimum(load(extremes, COLUMNS), load(extremes, COLUMNS + WIDTH)))


@_part
def _write(tensor: Any, channel: int, channels: int, sums: Any, extremes: Any, row: Any) -> None:
    share = 1 / np.float64(tensor.positions)
    if tensor.mean >= 0:
        for lane in range(channels):
            row[tensor.mean + channel + lane] = sums[_SUM * COLUMNS + lane] * share
            row[tensor.mean_square + channel + lane] = sums[_SQUARES * COLUMNS + lane] * share
            row[tensor.active + channel + lane] = sums[_ACTIVE * COLUMNS + lane] * share
            row[tensor.maximum + channel + lane] = extremes[lane]
    if tensor.inactive >= 0:
        for lane in range(channels):
            row[tensor.inactive + channel + lane] = 1 - row[tensor.active + channel + lane]
    if tensor.minimum >= 0:
        for lane in range(channels):
            row[tensor.minimum + channel + lane] = extremes[COLUMNS + lane]
    if tensor.saturated >= 0:
        for lane in range(channels):
            row[tensor.saturated + channel + lane] = sums[_SATURATED * COLUMNS + lane] * share


@_part
def _reduce_image(x: Any, tensor: Any, batch: int, image: int, sums: Any, extremes: Any, row: Any) -> None:
    numbers = tensor.positions * tensor.block
    vectors = numbers // WIDTH
    rest = vectors * WIDTH
    rows = ROWS if tensor.shortcut >= 0 or tensor.saturated >= 0 else 3
    branch = shortcut = 0.0
    channel = 0
    while channel < tensor.channels:  # a range may raise, for a step of zero
        sums[:] = 0
        extremes[:COLUMNS] = -np.inf
        extremes[COLUMNS:] = np.inf
        offset = image * tensor.size + channel // tensor.block * numbers
        first, other = batch * tensor.start + offset, batch * tensor.shortcut + offset
        _sum_vectors(x, first, other, vectors, tensor, sums, extremes)
        _sum_rest(x, first + rest, other + rest, numbers - rest, tensor, sums, extremes)
        _fold(sums, rows, extremes, tensor.block)
        channels = min(tensor.block, tensor.channels - channel)
        _write(tensor, channel, channels, sums, extremes, row)
        for lane in range(channels):
            branch += sums[_BRANCH * COLUMNS + lane]
            shortcut += sums[_SHORTCUT * COLUMNS + lane]
        channel += tensor.block
    if tensor.shortcut >= 0:
        share = 1 / np.float64(tensor.positions * tensor.channels)
        row[tensor.branch_energy] = branch * share
        row[tensor.shortcut_energy] = shortcut * share


def _reduce(
    memory: Any,
    numbers: int,
    table: Any,
    rows: int,
    first: int,
    stop: int,
    totals: Any,
    images: int,
    columns: int,
    scratch: Any,
    limits: Any,
) -> None:
    """`service.runtime.reduction.reduce_tensors`, of pointers."""
    x, tensors = numba.carray(memory, (numbers,)), numba.carray(table, (rows,))
    results = numba.carray(totals, (images, columns))
    sums, extremes = numba.carray(scratch, (ROWS * COLUMNS,)), numba.carray(limits, (2 * COLUMNS,))
    for step in range(first, stop):
        # Image by image: a shortcut is then still in the cache when its block's end is read.
        image = step // rows
        _reduce_image(x, tensors[step % rows], images, image, sums, extremes, results[image])


def compiled(machine: llvm.TargetMachine) -> bytes:
    """The object file of the pass, of which `reduce_tensors` is the only name; takes seconds."""
    pointer, number = numba.types.CPointer, numba.types.int64
    floats, doubles, table = (pointer(numba.from_dtype(kind)) for kind in (np.dtype("f4"), np.dtype("f8"), TENSOR))
    arguments = (floats, number, table, number, number, number, floats, number, number, doubles, floats)
    callback = numba.cfunc(numba.types.void(*arguments), error_model="numpy")(_reduce)
    module = llvm.parse_assembly(callback.inspect_llvm())
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration:
            value.linkage = "internal"
    entry = module.get_function(callback.native_name)
    entry.linkage, entry.name = "external", ENTRY
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    needed = {function.name for function in module.functions if function.is_declaration}
    assert all(name.startswith("llvm.") for name in needed), f"the compiled pass calls what may not be there: {needed}"
    return bytes(machine.emit_object(module))
