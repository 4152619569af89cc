"""Piecewise linear activations: the linear control, ReLU and the leaky family."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.manifest import Saturation
from training.activations import bodies
from training.activations.entry import Activation, ActivationModule, ActivationNode

NEVER = Saturation()


class IdentityActivation(ActivationModule):
    """f(x) = x, the linear control."""

    def formula(self, x: Tensor) -> Tensor:
        return x

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Identity)


class ReluActivation(ActivationModule):
    """f(x) = max(0, x); f′(0) = 0. Nair & Hinton 2010."""

    def formula(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Relu)


class LeakyReluActivation(ActivationModule):
    """f(x) = max(x, αx), 0 ≤ α < 1; f′(0) = α. Maas 2013.

    Raises `ValueError` for α outside [0, 1).
    """

    def __init__(self, alpha: float = 0.01) -> None:
        super().__init__()
        if not 0 <= alpha < 1:
            raise ValueError(f"leaky_relu slope alpha={alpha} is not allowed: use 0 ≤ alpha < 1")
        self.alpha = alpha

    def formula(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.alpha)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.LeakyRelu, attributes={"alpha": self.alpha})


class SharedPReluActivation(ActivationModule):
    """f(x) = x for x > 0, else a·x, with one learned slope a for the layer (initially 0.25). He 2015.

    At export the slope has become a constant of the node, and the body is a LeakyRelu that fuses into the convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 0.25))

    def formula(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.LeakyRelu, attributes={"alpha": self.weight.item()})


class PReluActivation(ActivationModule):
    """f(x) = x for x > 0, else a_c·x, with one learned slope a_c per channel (initially 0.25). He 2015."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def formula(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight)

    def node(self) -> ActivationNode:
        slopes_C11 = self.weight.detach().reshape(-1, 1, 1)
        convex = bool(((slopes_C11 >= 0) & (slopes_C11 <= 1)).all())
        return ActivationNode(bodies.PReluMax if convex else bodies.PRelu, inputs={"slope": slopes_C11})


RECTIFIERS: dict[str, Activation] = {
    "identity": Activation("x", lambda _: IdentityActivation(), True, NEVER, "the linear control"),
    "relu": Activation("max(0, x)", lambda _: ReluActivation(), False, Saturation(below=0.0), "Nair & Hinton 2010"),
    "leaky_relu": Activation("max(x, 0.01·x)", lambda _: LeakyReluActivation(), True, NEVER, "Maas et al. 2013"),
    "prelu": Activation("x if x > 0 else a_c·x", PReluActivation, True, NEVER, "He et al. 2015"),
    "prelu_shared": Activation("x if x > 0 else a·x", lambda _: SharedPReluActivation(), True, NEVER, "He et al. 2015"),
}
