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
    # Right only while every slope is from 0 to 1, and one pass over memory cheaper than the general form.
    return op.Max(x, x * slope)


@script(reslens, default_opset=op)
def PRelu(x, slope):
    return op.Relu(x) + slope * op.Min(x, 0.0)


@script(reslens, default_opset=op)
def EluMax(x, alpha: float):
    # Right only for α ≤ 1: above that the exponential branch exceeds x near 0.
    return op.Max(x, alpha * (op.Exp(op.Min(x, 0.0)) - 1.0))


@script(reslens, default_opset=op)
def Elu(x, alpha: float):
    return op.Relu(x) + alpha * (op.Exp(op.Min(x, 0.0)) - 1.0)


@script(reslens, default_opset=op)
def Selu(x, scale: float, alpha: float):
    return scale * (op.Relu(x) + alpha * (op.Exp(op.Min(x, 0.0)) - 1.0))


@script(reslens, default_opset=op)
def Celu(x, alpha: float):
    # α(e^{x/α} − 1) ≥ x for x < 0 and every α.
    return op.Max(x, alpha * (op.Exp(op.Min(x, 0.0) / alpha) - 1.0))


@script(reslens, default_opset=op)
def Softplus(x):
    return op.Max(x, op.Log(op.Exp(op.Min(x, 80.0)) + 1.0))


@script(reslens, default_opset=op)
def SoftRelu(x, threshold: float):
    limit = op.CastLike(threshold, x)
    return op.Log(op.Exp(op.Clip(x, op.Neg(limit), limit)) + 1.0)


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
    return x / (op.Exp(-scale * x) + 1.0)


@script(reslens, default_opset=op)
def Swish(x):
    # ONNX Runtime's Sigmoid errs by 1e-7 absolute, which x·σ(x) would multiply by x.
    return x / (op.Exp(-x) + 1.0)


@script(reslens, default_opset=op)
def SwishBeta(x, negative_beta):
    return x / (op.Exp(x * negative_beta) + 1.0)


@script(reslens, default_opset=op)
def HardSwish(x):
    return op.HardSwish(x)


@script(reslens, default_opset=op)
def Mish(x):
    # With e = eˣ: tanh(ln(1 + e)) = n / (n + 2) for n = e(e + 2). Beyond x = 20 the quotient is 1 in float32, and the
    # limit keeps n finite. One exponential instead of the standard operator's exponential, logarithm and tanh.
    e = op.Exp(op.Min(x, 20.0))
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


@script(reslens, default_opset=op)
def Su(x):
    return x * op.Exp(op.Min(x, 0.0))


@script(reslens, default_opset=op)
def ConcatenatedRelu(x):
    return op.Concat(op.Relu(x), op.Relu(-x), axis=1)


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
