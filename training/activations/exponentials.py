"""Activations that saturate exponentially on the negative side."""

import math

import torch.nn.functional as F
from torch import Tensor

from models.manifest import Saturation
from training.activations import bodies
from training.activations.entry import Activation, ActivationModule, ActivationNode


class EluActivation(ActivationModule):
    """f(x) = x for x > 0, else α(eˣ − 1); f′(0⁻) = α. Clevert 2016.

    Raises `ValueError` for α ≤ 0.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        if not (alpha > 0 and math.isfinite(alpha)):
            raise ValueError(f"elu scale alpha={alpha} is not allowed: use a finite alpha > 0")
        self.alpha = alpha

    def formula(self, x: Tensor) -> Tensor:
        return F.elu(x, self.alpha)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.EluMax if self.alpha <= 1 else bodies.Elu, attributes={"alpha": self.alpha})


EXPONENTIALS: dict[str, Activation] = {
    # f′ = eˣ < 0.01 exactly where f = eˣ − 1 < −0.99.
    "elu": Activation(
        "x if x > 0 else eˣ − 1", lambda _: EluActivation(), True, Saturation(below=-0.99), "Clevert et al. 2016"
    ),
}
