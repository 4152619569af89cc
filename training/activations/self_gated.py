"""Smooth activations of the form x · gate(x): not monotonic, so saturation cannot be told from their output."""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.activations import bodies
from training.activations.entry import Activation, ActivationModule, ActivationNode


class GeluActivation(ActivationModule):
    """f(x) = x·Φ(x), with the exact error function. Hendrycks & Gimpel 2016."""

    def formula(self, x: Tensor) -> Tensor:
        return F.gelu(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Gelu)


class SwishActivation(ActivationModule):
    """f(x) = x·σ(x), also called SiLU. Ramachandran 2017."""

    def formula(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Swish)


class MishActivation(ActivationModule):
    """f(x) = x·tanh(ln(1 + eˣ)); minimum −0.3088 at −1.1924. Misra 2019."""

    def formula(self, x: Tensor) -> Tensor:
        return F.mish(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Mish)


class SuActivation(ActivationModule):
    """f(x) = max(x, x·e^{−|x|}) = x·e^{min(x, 0)}; minimum −1/e at −1. Su Jianlin 2017."""

    def formula(self, x: Tensor) -> Tensor:
        return x * torch.exp(x.clamp(max=0))

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Su)


SELF_GATED: dict[str, Activation] = {
    "gelu": Activation("x·Φ(x)", lambda _: GeluActivation(), True, None, "Hendrycks & Gimpel 2016"),
    "swish": Activation("x·σ(x)", lambda _: SwishActivation(), True, None, "Ramachandran et al. 2017"),
    "mish": Activation("x·tanh(ln(1 + eˣ))", lambda _: MishActivation(), True, None, "Misra 2019"),
    "su": Activation("max(x, x·e^{−|x|})", lambda _: SuActivation(), True, None, "Su Jianlin 2017"),
}
