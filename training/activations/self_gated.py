"""Smooth activations of the form x · gate(x): not monotonic, so saturation cannot be told from their output."""

import torch
import torch.nn.functional as F
from onnxscript import opset20 as op
from onnxscript import script
from onnxscript.values import Opset
from torch import Tensor

from models.opset import DOMAIN, DOMAIN_VERSION
from training.activations.entry import Activation, ActivationModule, ActivationNode

reslens = Opset(DOMAIN, DOMAIN_VERSION)


@script(reslens, default_opset=op)
def Gelu(x):
    return op.Gelu(x)


@script(reslens, default_opset=op)
def Swish(x):
    return x * op.Sigmoid(x)


# With e = eˣ: tanh(ln(1 + e)) = n / (n + 2) for n = e(e + 2). Beyond x = 20 the quotient is 1 in float32, and the
# clip keeps n finite. One exponential instead of the standard operator's exponential, logarithm and tanh.
@script(reslens, default_opset=op)
def Mish(x):
    two = op.CastLike(op.Constant(value_float=2.0), x)
    limit = op.CastLike(op.Constant(value_float=20.0), x)
    e = op.Exp(op.Min(x, limit))
    n = e * (e + two)
    return x * (n / (n + two))


@script(reslens, default_opset=op)
def Su(x):
    zero = op.CastLike(op.Constant(value_float=0.0), x)
    return x * op.Exp(op.Min(x, zero))


class GeluActivation(ActivationModule):
    """f(x) = x·Φ(x), with the exact error function. Hendrycks & Gimpel 2016."""

    def formula(self, x: Tensor) -> Tensor:
        return F.gelu(x)

    def node(self) -> ActivationNode:
        return ActivationNode(Gelu)


class SwishActivation(ActivationModule):
    """f(x) = x·σ(x), also called SiLU. Ramachandran 2017."""

    def formula(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def node(self) -> ActivationNode:
        return ActivationNode(Swish)


class MishActivation(ActivationModule):
    """f(x) = x·tanh(ln(1 + eˣ)); minimum −0.3088 at −1.1924. Misra 2019."""

    def formula(self, x: Tensor) -> Tensor:
        return F.mish(x)

    def node(self) -> ActivationNode:
        return ActivationNode(Mish)


class SuActivation(ActivationModule):
    """f(x) = max(x, x·e^{−|x|}) = x·e^{min(x, 0)}; minimum −1/e at −1. Su Jianlin 2017."""

    def formula(self, x: Tensor) -> Tensor:
        return x * torch.exp(x.clamp(max=0))

    def node(self) -> ActivationNode:
        return ActivationNode(Su)


SELF_GATED: dict[str, Activation] = {
    "gelu": Activation("x·Φ(x)", lambda _: GeluActivation(), True, None, "Hendrycks & Gimpel 2016"),
    "swish": Activation("x·σ(x)", lambda _: SwishActivation(), True, None, "Ramachandran et al. 2017"),
    "mish": Activation("x·tanh(ln(1 + eˣ))", lambda _: MishActivation(), True, None, "Misra 2019"),
    "su": Activation("max(x, x·e^{−|x|})", lambda _: SuActivation(), True, None, "Su Jianlin 2017"),
}
