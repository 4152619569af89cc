"""Eight float32 side by side, as a type of compiled code: LLVM makes one or two registers of it on any processor.

A compiler does not reliably turn a loop over the channels of a block into vector code: such loops took four times as
long. These are the few operations that `service.runtime.planes` is written in, each of one or two instructions.
Nothing is relaxed but that a·b + c may round once: NaN and infinity stay what they are.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

WIDTH = 8

_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_DOUBLES = ir.VectorType(ir.DoubleType(), WIDTH)
_FUSED = ("contract",)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes")


_LANES = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: _Lanes) -> None:
        super().__init__(manager, lanes, _FLOATS)


@intrinsic
def splat(_: Any, value: Any) -> Any:
    """`value` in every lane."""

    def emit(_: Any, builder: ir.IRBuilder, __: Any, arguments: Any) -> ir.Value:
        return _splat(builder, arguments[0])

    return _LANES(types.float32), emit


@intrinsic
def load(_: Any, array: Any, index: Any) -> Any:
    """Lanes from `array[index : index + 8]`, float32 and contiguous."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        place = _place(context, builder, signature, arguments, _FLOATS)
        return builder.load(place, align=4)

    return _LANES(array, types.intp), emit


@intrinsic
def accumulate(_: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Add to `array[index : index + 8]`, float64 and contiguous."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        place = _place(context, builder, signature, arguments, _DOUBLES)
        total = builder.fadd(builder.load(place, align=8), builder.fpext(arguments[2], _DOUBLES))
        builder.store(total, place, align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), emit


@intrinsic
def store(_: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Write to `array[index : index + 8]`, float32 and contiguous."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        builder.store(arguments[2], _place(context, builder, signature, arguments, _FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), emit


@intrinsic
def add(_: Any, a: Any, b: Any) -> Any:
    """a + b"""

    def emit(_: Any, builder: ir.IRBuilder, __: Any, arguments: Any) -> ir.Value:
        return builder.fadd(*arguments, flags=_FUSED)

    return _LANES(a, b), emit


@intrinsic
def subtract(_: Any, a: Any, b: Any) -> Any:
    """a − b"""

    def emit(_: Any, builder: ir.IRBuilder, __: Any, arguments: Any) -> ir.Value:
        return builder.fsub(*arguments)

    return _LANES(a, b), emit


@intrinsic
def add_square(_: Any, total: Any, a: Any) -> Any:
    """total + a²"""

    def emit(_: Any, builder: ir.IRBuilder, __: Any, arguments: Any) -> ir.Value:
        total, a = arguments
        return builder.fadd(builder.fmul(a, a, flags=_FUSED), total, flags=_FUSED)

    return _LANES(total, a), emit


@intrinsic
def count_above(_: Any, count: Any, a: Any, bound: Any) -> Any:
    """count + 1[a > bound]"""
    return _LANES(count, a, bound), _counting(">")


@intrinsic
def count_from(_: Any, count: Any, a: Any, bound: Any) -> Any:
    """count + 1[a ≥ bound]"""
    return _LANES(count, a, bound), _counting(">=")


@intrinsic
def count_to(_: Any, count: Any, a: Any, bound: Any) -> Any:
    """count + 1[a ≤ bound]"""
    return _LANES(count, a, bound), _counting("<=")


@intrinsic
def maximum(_: Any, a: Any, b: Any) -> Any:
    """a where a > b, else b: a NaN in `a` leaves `b`."""
    return _LANES(a, b), _choosing(">")


@intrinsic
def minimum(_: Any, a: Any, b: Any) -> Any:
    """a where a < b, else b: a NaN in `a` leaves `b`."""
    return _LANES(a, b), _choosing("<")


@intrinsic
def sum_of_all(_: Any, array: Any, index: Any) -> Any:
    """The sum of `array[index : index + 16]`, float64 and contiguous."""
    return array.dtype(array, types.intp), _folding(ir.DoubleType(), ir.IRBuilder.fadd)


@intrinsic
def largest_of_all(_: Any, array: Any, index: Any) -> Any:
    """The maximum of `array[index : index + 16]`, float32 and contiguous, without NaN."""
    return array.dtype(array, types.intp), _folding(ir.FloatType(), partial(_choose, comparison=">"))


@intrinsic
def least_of_all(_: Any, array: Any, index: Any) -> Any:
    """The minimum of `array[index : index + 16]`, float32 and contiguous, without NaN."""
    return array.dtype(array, types.intp), _folding(ir.FloatType(), partial(_choose, comparison="<"))


def _folding(number: ir.Type, combine: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]) -> Any:
    """Combine the upper half of 16 numbers with the lower one, and so on until one is left."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        width = 2 * WIDTH
        place = _place(context, builder, signature, arguments, ir.VectorType(number, width))
        folded = builder.load(place, align=4)
        undefined = ir.Constant(folded.type, ir.Undefined)
        while width > 1:
            width //= 2
            mask = ir.VectorType(ir.IntType(32), width)
            lower, upper = (ir.Constant(mask, list(range(start, start + width))) for start in (0, width))
            low, high = (builder.shuffle_vector(folded, undefined, half) for half in (lower, upper))
            folded = combine(builder, low, high)
            undefined = ir.Constant(folded.type, ir.Undefined)
        return builder.extract_element(folded, ir.Constant(ir.IntType(32), 0))

    return emit


def _counting(comparison: str) -> Any:
    def emit(_: Any, builder: ir.IRBuilder, __: Any, arguments: Any) -> ir.Value:
        count, a, bound = arguments
        one, zero = (ir.Constant(_FLOATS, [number] * WIDTH) for number in (1.0, 0.0))
        return builder.fadd(count, builder.select(builder.fcmp_ordered(comparison, a, bound), one, zero))

    return emit


def _choosing(comparison: str) -> Any:
    def emit(_: Any, builder: ir.IRBuilder, __: Any, arguments: Any) -> ir.Value:
        a, b = arguments
        return _choose(builder, a, b, comparison)

    return emit


def _choose(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, comparison: str) -> ir.Value:
    return builder.select(builder.fcmp_ordered(comparison, a, b), a, b)


def _splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    index = ir.IntType(32)
    first = builder.insert_element(undefined, value, ir.Constant(index, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(index, WIDTH), [0] * WIDTH))


def _place(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any, vector: ir.Type) -> ir.Value:
    """Where the lanes that start at an index of an array lie."""
    array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
