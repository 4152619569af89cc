"""Activations that saturate exponentially on the negative side, and the softened ReLU."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.manifest import Saturation
from training.activations import bodies
from training.activations.entry import Activation, ActivationModule, ActivationNode, positive

SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772


class EluActivation(ActivationModule):
    """f(x) = x for x > 0, else α(eˣ − 1); f′(0⁻) = α. Clevert 2016.

    Raises `ValueError` for α ≤ 0.
    """

    def __init__(self, channels: int, alpha: float = 1.0) -> None:
        super().__init__(channels)
        self.alpha = positive("elu", "alpha", alpha)
        self.output_range = (-alpha, math.inf)
        # f′ = αeˣ < 0.01·max(1, α) exactly where f = αeˣ − α is below this.
        self.saturation = Saturation(below=min(0.01 * max(1.0, alpha) - alpha, 0.0))

    def formula(self, x: Tensor) -> Tensor:
        return F.elu(x, self.alpha)

    def node(self) -> ActivationNode:
        body = bodies.EluMax if self.alpha <= 1 else bodies.Elu
        return ActivationNode(body, attributes={"alpha": self.alpha}, overloads={"cuda": bodies.EluCuda})


class SeluActivation(ActivationModule):
    """f(x) = λx for x > 0, else λα(eˣ − 1), λ = 1.0507…, α = 1.6732…; f′(0⁻) = λα. Klambauer 2017."""

    output_range = (-SELU_SCALE * SELU_ALPHA, math.inf)
    # f′ = λαeˣ < 0.01·λα exactly where f < −0.99·λα.
    saturation = Saturation(below=-0.99 * SELU_SCALE * SELU_ALPHA)

    def formula(self, x: Tensor) -> Tensor:
        return F.selu(x)

    def node(self) -> ActivationNode:
        attributes = {"scale": SELU_SCALE, "alpha": SELU_ALPHA}
        return ActivationNode(bodies.Selu, attributes=attributes, overloads={"cuda": bodies.SeluCuda})


class CeluActivation(ActivationModule):
    """f(x) = max(0, x) + min(0, α(e^{x/α} − 1)); f′ is continuous for every α. Barron 2017.

    Raises `ValueError` for α ≤ 0.
    """

    def __init__(self, channels: int, alpha: float = 1.0) -> None:
        super().__init__(channels)
        self.alpha = positive("celu", "alpha", alpha)
        self.output_range = (-alpha, math.inf)
        # f′ = e^{x/α} < 0.01 exactly where f < −0.99·α.
        self.saturation = Saturation(below=-0.99 * alpha)

    def formula(self, x: Tensor) -> Tensor:
        return F.celu(x, self.alpha)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Celu, attributes={"alpha": self.alpha}, overloads={"cuda": bodies.CeluCuda})


class SoftplusActivation(ActivationModule):
    """f(x) = ln(1 + eˣ). Dugas 2001.

    Beyond x = 40 the sum is eˣ in float64 too, and f(x) = x.
    """

    output_range = (0.0, math.inf)
    # f′ = σ(x) < 0.01 exactly where f = −ln(1 − σ(x)) < −ln 0.99.
    saturation = Saturation(below=-math.log(0.99))

    def formula(self, x: Tensor) -> Tensor:
        return F.softplus(x, threshold=40.0)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Softplus, overloads={"cuda": bodies.SoftplusCuda})


class SoftReluActivation(ActivationModule):
    """f(x) = ln(1 + exp(clip(x, −t, t))); f′ = 0 beyond ±t, where softplus goes on. Paddle's soft_relu.

    Raises `ValueError` for t ≤ 0, and for t > 80, where exp overflows in float32.
    """

    def __init__(self, channels: int, threshold: float = 40.0) -> None:
        super().__init__(channels)
        self.threshold = positive("soft_relu", "threshold", threshold)
        if threshold > 80:
            raise ValueError(f"threshold={threshold} of soft_relu is not allowed: use at most 80, or softplus")
        self.output_range = (math.log1p(math.exp(-threshold)), math.log1p(math.exp(threshold)))
        # f′ = σ(x) < 0.01·σ(t) exactly where f < −ln(1 − 0.01·σ(t)); at the clip's ends f′ = 0.
        steep = -math.log1p(-0.01 / (1 + math.exp(-threshold)))
        self.saturation = Saturation(below=max(steep, self.output_range[0]), above=self.output_range[1])

    def formula(self, x: Tensor) -> Tensor:
        return torch.log1p(torch.exp(x.clamp(-self.threshold, self.threshold)))

    def node(self) -> ActivationNode:
        # ln(1 + e⁻¹⁶) = 1e-7
        body = bodies.SoftRelu if self.threshold >= 16 else bodies.SoftReluClip
        return ActivationNode(body, attributes={"threshold": self.threshold}, overloads={"cuda": bodies.SoftReluCuda})


EXPONENTIALS: dict[str, Activation] = {
    "elu": Activation(
        formula="x if x > 0 else α(eˣ − 1)",
        module=EluActivation,
        parameters={"alpha": 1.0},
        source="Clevert et al. 2016, Fast and accurate deep network learning by ELUs (arXiv 1511.07289)",
        use="Outputs nearer to mean zero than ReLU's; bounded below by −α. For α ≠ 1 the slope jumps at 0.",
        slopes=(0.0, 1.0),
    ),
    "selu": Activation(
        formula="λx if x > 0 else λα(eˣ − 1), λ = 1.0507009873554805, α = 1.6732632423543772",
        module=SeluActivation,
        source="Klambauer et al. 2017, Self-normalizing neural networks (arXiv 1706.02515)",
        use="Keeps mean 0 and variance 1 by itself in plain networks with LeCun-normal weights; with batch "
        "normalisation it is one more ELU.",
        slopes=(0.0, SELU_SCALE),
        kinks={0.0: SELU_SCALE * SELU_ALPHA},
    ),
    "celu": Activation(
        formula="max(0, x) + min(0, α(e^{x/α} − 1))",
        module=CeluActivation,
        parameters={"alpha": 1.0},
        source="Barron 2017, Continuously differentiable exponential linear units (arXiv 1704.07483)",
        use="An ELU whose slope is continuous at 0 for every α.",
        slopes=(0.0, 1.0),
    ),
    "softplus": Activation(
        formula="ln(1 + eˣ)",
        module=SoftplusActivation,
        source="Dugas et al. 2001, Incorporating second-order functional knowledge for better option pricing",
        use="Smooth and never zero, but its outputs are all positive: normalise after it. Slow in a plain export, "
        "where it costs a logarithm.",
        slopes=(0.0, 1.0),
    ),
    "soft_relu": Activation(
        formula="ln(1 + exp(clip(x, −t, t)))",
        module=SoftReluActivation,
        parameters={"threshold": 40.0},
        source="PaddlePaddle, soft_relu",
        use="For models that come from Paddle; not softplus: constant and without gradient beyond ±t.",
        slopes=(0.0, 0.0),
        kinks={-40.0: 1 / (1 + math.exp(40.0)), 40.0: 1 / (1 + math.exp(-40.0))},
    ),
}
