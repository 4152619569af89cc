"""The ONNX function bodies of the activations, in the project's domain, of standard operators only.

A body is chosen for what ONNX Runtime runs fast: few passes over memory, forms that fuse into a convolution. Each name
is the operator type of the node in a published graph. This file is written in onnxscript's language: plain Python
syntax that is translated, not executed; literals take the type of the tensor that they meet.
"""

from onnxscript import opset20 as op
from onnxscript import script
from onnxscript.values import Opset

from models.opset import DOMAIN, DOMAIN_VERSION

reslens = Opset(DOMAIN, DOMAIN_VERSION)


@script(reslens, default_opset=op)
def Identity(x):
    return op.Identity(x)


@script(reslens, default_opset=op)
def Relu(x):
    return op.Relu(x)


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
def Tanh(x):
    return op.Tanh(x)


@script(reslens, default_opset=op)
def Sigmoid(x):
    return op.Sigmoid(x)


@script(reslens, default_opset=op)
def Gelu(x):
    return op.Gelu(x)


@script(reslens, default_opset=op)
def Swish(x):
    return x * op.Sigmoid(x)


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
