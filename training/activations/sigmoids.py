"""Bounded, monotonic activations."""

import math

import torch
from torch import Tensor

from models.manifest import Saturation
from training.activations import bodies
from training.activations.entry import Activation, ActivationModule, ActivationNode


class TanhActivation(ActivationModule):
    """f(x) = tanh x. LeCun 1998."""

    def formula(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Tanh)


class SigmoidActivation(ActivationModule):
    """f(x) = 1 / (1 + e⁻ˣ)."""

    def formula(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Sigmoid)


# tanh′ = 1 − y² < 0.01 where |y| > √0.99, that is |x| > 2.99.
_TANH_EDGE = math.sqrt(0.99)
# σ′ = y(1 − y) < 0.01 · 1/4 where |y − 1/2| > √0.99 / 2, that is |x| > 5.99.
_SIGMOID_EDGE = math.sqrt(0.99) / 2

SIGMOIDS: dict[str, Activation] = {
    "tanh": Activation(
        "tanh x", lambda _: TanhActivation(), True, Saturation(below=-_TANH_EDGE, above=_TANH_EDGE), "LeCun et al. 1998"
    ),
    "sigmoid": Activation(
        "1 / (1 + e⁻ˣ)",
        lambda _: SigmoidActivation(),
        False,
        Saturation(below=0.5 - _SIGMOID_EDGE, above=0.5 + _SIGMOID_EDGE),
        "the logistic function",
    ),
}
