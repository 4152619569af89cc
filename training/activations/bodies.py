"""The ONNX function bodies of the activations, in the project's domain, of standard operators only.

A body is chosen for what ONNX Runtime runs fast: few passes over memory, forms that fuse into a convolution. Each name
is the operator type of the node in a published graph. This file is written in onnxscript's language: plain Python
syntax that is translated, not executed; literals take the type of the tensor that they meet.
"""

from dataclasses import dataclass

import onnx
from onnx import FunctionProto, helper
from onnxscript import opset20 as op
from onnxscript import script
from onnxscript.values import Opset

from models.opset import DOMAIN, DOMAIN_VERSION, STANDARD_OPSET

reslens = Opset(DOMAIN, DOMAIN_VERSION)


@script(reslens, default_opset=op)
def Identity(x):
    return op.Identity(x)


@script(reslens, default_opset=op)
def Relu(x):
    return op.Relu(x)


@script(reslens, default_opset=op)
def Clip(x, low: float, high: float):
    return op.Clip(x, op.CastLike(low, x), op.CastLike(high, x))


@script(reslens, default_opset=op)
def SquaredRelu(x):
    positive = op.Relu(x)
    return positive * positive


@script(reslens, default_opset=op)
def LeakyRelu(x, alpha: float):
    return op.LeakyRelu(x, alpha=alpha)


@script(reslens, default_opset=op)
def PReluMax(x, slope):
    # Right only while every slope is at most 1.
    return op.Max(x, slope * x)


@script(reslens, default_opset=op)
def PReluMaxCpu(x, slope):
    # Max leaves the blocked layout of the CPU's convolutions; a product with one constant a channel, Relu and Add stay.
    return slope * x + op.Relu((1.0 - slope) * x)


@script(reslens, default_opset=op)
def PRelu(x, slope):
    return op.Max(x, 0.0) + slope * op.Min(x, 0.0)


@script(reslens, default_opset=op)
def PReluCpu(x, slope):
    # −x as a product with one constant a channel stays in the blocked layout, as in PReluMaxCpu.
    minus = op.Expand(op.CastLike(-1.0, slope), op.Shape(slope))
    return op.Relu(x) + (minus * slope) * op.Relu(minus * x)


@script(reslens, default_opset=op)
def PReluCuda(x, slope):
    return op.PRelu(x, slope)


@script(reslens, default_opset=op)
def EluMax(x, alpha: float):
    # HardSigmoid(e) = clip(1 − e, 0, 1) = −(e^{min(x, 0)} − 1), in one pass and without a limit on e. Right only for
    # α ≤ 1: above that the exponential branch falls below x near 0.
    return op.Max(x, op.Neg(op.CastLike(alpha, x)) * op.HardSigmoid(op.Exp(x), alpha=-1.0, beta=1.0))


@script(reslens, default_opset=op)
def Elu(x, alpha: float):
    # The unit ELU, its negative part scaled.
    unit = op.Max(x, op.HardSigmoid(op.Exp(x), alpha=1.0, beta=0.0) - 1.0)
    return op.LeakyRelu(unit, alpha=alpha)


@script(reslens, default_opset=op)
def EluCuda(x, alpha: float):
    return op.Elu(x, alpha=alpha)


@script(reslens, default_opset=op)
def Selu(x, scale: float, alpha: float):
    unit = op.Max(x, op.HardSigmoid(op.Exp(x), alpha=1.0, beta=0.0) - 1.0)
    return op.CastLike(scale, x) * op.LeakyRelu(unit, alpha=alpha)


@script(reslens, default_opset=op)
def SeluCuda(x, scale: float, alpha: float):
    return op.Selu(x, alpha=alpha, gamma=scale)


@script(reslens, default_opset=op)
def Celu(x, alpha: float):
    # As EluMax; α(e^{x/α} − 1) ≥ x for x < 0 and every α.
    a = op.CastLike(alpha, x)
    return op.Max(x, op.Neg(a) * op.HardSigmoid(op.Exp(op.Reciprocal(a) * x), alpha=-1.0, beta=1.0))


@script(reslens, default_opset=op)
def CeluCuda(x, alpha: float):
    a = op.CastLike(alpha, x)
    return a * op.Elu(op.Reciprocal(a) * x)


@script(reslens, default_opset=op)
def Softplus(x):
    # ln(1 + eˣ) = max(x, 0) + ln(1 + e^{−|x|}), and ln(1 + e) = 2·atanh(e / (e + 2)), where e / (e + 2) is
    # σ(−|x| − ln 2) and at most 1/3. v is that σ, slightly rescaled, and v·(B/(C − v²) + A) the minimax fit of degree
    # 3/2 to 2·atanh, 1.4e-7 off at most. Ten cheap passes are faster than the single one of a logarithm.
    v = op.Sigmoid(-0.6932795823867183 - op.Abs(x))
    return op.Max(x, 0.0) + v * (1.7452645855912137 / (1.619462649407216 - v * v) + 0.9225719009142823)


@script(reslens, default_opset=op)
def SoftplusCuda(x):
    return op.Softplus(x)


@script(reslens, default_opset=op)
def SoftRelu(x, threshold: float):
    # Softplus with its linear branch clipped. Right only where ln(1 + e^{−t}) is nothing: beyond −t it goes on to 0.
    v = op.Sigmoid(-0.6932795823867183 - op.Abs(x))
    linear = op.Clip(x, op.CastLike(0.0, x), op.CastLike(threshold, x))
    return linear + v * (1.7452645855912137 / (1.619462649407216 - v * v) + 0.9225719009142823)


@script(reslens, default_opset=op)
def SoftReluClip(x, threshold: float):
    t = op.CastLike(threshold, x)
    clipped = op.Clip(x, op.Neg(t), t)
    v = op.Sigmoid(-0.6932795823867183 - op.Abs(clipped))
    return op.Max(clipped, 0.0) + v * (1.7452645855912137 / (1.619462649407216 - v * v) + 0.9225719009142823)


@script(reslens, default_opset=op)
def SoftReluCuda(x, threshold: float):
    t = op.CastLike(threshold, x)
    return op.Softplus(op.Clip(x, op.Neg(t), t))


@script(reslens, default_opset=op)
def Step(x):
    return op.CastLike(op.GreaterOrEqual(x, 0.0), x)


@script(reslens, default_opset=op)
def Tanh(x):
    return op.Tanh(x)


@script(reslens, default_opset=op)
def Sigmoid(x):
    return op.Sigmoid(x)


@script(reslens, default_opset=op)
def HardSigmoid(x, alpha: float, beta: float):
    return op.HardSigmoid(x, alpha=alpha, beta=beta)


@script(reslens, default_opset=op)
def Softsign(x):
    return op.Softsign(x)


@script(reslens, default_opset=op)
def Gelu(x):
    return op.Gelu(x)


@script(reslens, default_opset=op)
def GeluTanh(x):
    return op.Gelu(x, approximate="tanh")


@script(reslens, default_opset=op)
def GeluSigmoid(x, scale: float):
    return x / (op.Exp(op.Neg(op.CastLike(scale, x)) * x) + 1.0)


@script(reslens, default_opset=op)
def Swish(x):
    # ONNX Runtime's Sigmoid errs by 1e-7, whatever the size of its result, and x·σ(x) would multiply that by x. Where
    # e⁻ˣ overflows, the quotient is 0 as it should be.
    return x / (op.Exp(-x) + 1.0)


@script(reslens, default_opset=op)
def SwishBeta(x, negative_beta):
    return x / (op.Exp(x * negative_beta) + 1.0)


@script(reslens, default_opset=op)
def HardSwish(x):
    return op.HardSwish(x)


@script(reslens, default_opset=op)
def Mish(x):
    # With e = eˣ: tanh(ln(1 + e)) = n / (n + 2) for n = e(e + 2), written so that e = 0 and e = ∞ give 0 and 1, and no
    # limit is needed. One exponential instead of the standard operator's exponential, logarithm and tanh.
    e = op.Exp(x)
    return x / (2.0 / (e * (e + 2.0)) + 1.0)


@script(reslens, default_opset=op)
def Su(x):
    # HardSigmoid(e) = clip(e, 0, 1) = e^{min(x, 0)}
    return x * op.HardSigmoid(op.Exp(x), alpha=1.0, beta=0.0)


@script(reslens, default_opset=op)
def ConcatenatedRelu(x, minus):
    # −x as a product with one constant a channel stays in the blocked layout of the CPU's convolutions; Neg does not.
    return op.Concat(op.Relu(x), op.Relu(minus * x), axis=1)


@script(reslens, default_opset=op)
def GatedLinear(x):
    value, gate = op.Split(x, axis=1, num_outputs=2)
    return value / (op.Exp(-gate) + 1.0)


@script(reslens, default_opset=op)
def DynamicRelu(x, squeeze_weight, squeeze_bias, excite_weight, excite_bias, lambda_a: float, lambda_b: float):
    hidden = op.Relu(op.Conv(op.GlobalAveragePool(x), squeeze_weight, squeeze_bias))
    residuals = op.Tanh(op.Conv(hidden, excite_weight, excite_bias))
    a1, a2, b1, b2 = op.Split(residuals, axis=1, num_outputs=4)
    return op.Max((lambda_a * a1 + 1.0) * x + lambda_b * b1, lambda_a * a2 * x + lambda_b * b2)


@script(reslens, default_opset=op)
def DynamicReluSpatial(
    x, squeeze_weight, squeeze_bias, excite_weight, excite_bias, attention_weight, lambda_a: float, lambda_b: float
):
    hidden = op.Relu(op.Conv(op.GlobalAveragePool(x), squeeze_weight, squeeze_bias))
    residuals = op.Tanh(op.Conv(hidden, excite_weight, excite_bias))
    a1, a2, b1, b2 = op.Split(residuals, axis=1, num_outputs=4)
    y = op.Max((lambda_a * a1 + 1.0) * x + lambda_b * b1, lambda_a * a2 * x + lambda_b * b2)
    # HW/3 · softmax(z) = e / (3 · mean e), on one channel and for any H and W.
    z = op.Conv(x, attention_weight)
    e = op.Exp(z - op.GlobalMaxPool(z))
    return y * op.Min(e / (op.GlobalAveragePool(e) * 3.0), 1.0)


@script(reslens, default_opset=op)
def FunnelRelu(x, kernel, shift, group: int):
    return op.Max(x, op.Conv(x, kernel, shift, group=group, pads=[1, 1, 1, 1]))


@dataclass(frozen=True)
class Maxout:
    """Split into k groups of channels and take their maximum: a body for each k, since a function's nodes are fixed."""

    pieces: int

    @property
    def name(self) -> str:
        """`Maxout2` for k = 2."""
        return f"Maxout{self.pieces}"

    def to_function_proto(self) -> FunctionProto:
        """y = Max(Split(x, k groups of channels))."""
        groups = [f"group{index}" for index in range(self.pieces)]
        split = helper.make_node("Split", ["x"], groups, axis=1)
        split.attribute.append(onnx.AttributeProto(name="num_outputs", ref_attr_name="k", type=onnx.AttributeProto.INT))
        return helper.make_function(
            DOMAIN,
            self.name,
            ["x"],
            ["y"],
            [split, helper.make_node("Max", groups, ["y"])],
            [helper.make_opsetid("", STANDARD_OPSET)],
            attributes=["k"],
        )
