"""Piecewise linear activations and their square: the linear control, ReLU and the leaky family."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.manifest import Saturation
from training.activations import bodies
from training.activations.entry import NEVER, Activation, ActivationModule, ActivationNode


class IdentityActivation(ActivationModule):
    """f(x) = x, the linear control."""

    def formula(self, x: Tensor) -> Tensor:
        return x

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Identity)


class ReluActivation(ActivationModule):
    """f(x) = max(0, x); f′(0) = 0. Nair & Hinton 2010."""

    output_range = (0.0, math.inf)
    saturation = Saturation(below=0.0)
    zero_is_dead = True

    def formula(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Relu)


class Relu6Activation(ActivationModule):
    """f(x) = min(max(0, x), 6); f′(0) = f′(6) = 0. Krizhevsky 2010."""

    output_range = (0.0, 6.0)
    saturation = Saturation(below=0.0, above=6.0)
    zero_is_dead = True

    def formula(self, x: Tensor) -> Tensor:
        return F.relu6(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Clip, attributes={"low": 0.0, "high": 6.0})


class SquaredReluActivation(ActivationModule):
    """f(x) = max(0, x)². So 2021."""

    output_range = (0.0, math.inf)
    saturation = Saturation(below=0.0)
    zero_is_dead = True

    def formula(self, x: Tensor) -> Tensor:
        return F.relu(x).square()

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.SquaredRelu)


def _meaning(slope: float) -> tuple[tuple[float, float], Saturation, bool]:
    """Range, saturation, and whether zero is dead, for a fixed slope of the negative side: with 0 it is ReLU's."""
    return (-math.inf if slope > 0 else 0.0, math.inf), Saturation(below=0.0) if slope < 0.01 else NEVER, slope == 0


class LeakyReluActivation(ActivationModule):
    """f(x) = max(x, αx), 0 ≤ α < 1; f′(0) = α. Maas 2013.

    Raises `ValueError` for α outside [0, 1).
    """

    def __init__(self, channels: int, alpha: float = 0.01) -> None:
        super().__init__(channels)
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha={alpha} of leaky_relu is not allowed: use 0 ≤ alpha < 1")
        self.alpha = alpha
        self.output_range, self.saturation, self.zero_is_dead = _meaning(alpha)

    def formula(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.alpha)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.LeakyRelu, attributes={"alpha": self.alpha})


class RandomisedReluActivation(ActivationModule):
    """Training: f(x) = x for x ≥ 0, else s·x with s ~ U(l, u) drawn for each element; evaluation: s = (l + u)/2.

    Raises `ValueError` unless 0 ≤ l ≤ u < 1. Xu 2015.
    """

    def __init__(self, channels: int, lower: float = 1 / 8, upper: float = 1 / 3) -> None:
        super().__init__(channels)
        if not 0 <= lower <= upper < 1:
            raise ValueError(f"lower={lower}, upper={upper} of rrelu are not allowed: use 0 ≤ lower ≤ upper < 1")
        self.lower, self.upper = lower, upper
        self.output_range, self.saturation, self.zero_is_dead = _meaning(self.mean_slope)

    @property
    def mean_slope(self) -> float:
        """The slope of evaluation."""
        return (self.lower + self.upper) / 2

    def formula(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.leaky_relu(x, self.mean_slope)
        slopes = torch.empty_like(x).uniform_(self.lower, self.upper)
        return torch.where(x >= 0, x, slopes * x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.LeakyRelu, attributes={"alpha": self.mean_slope})


class SharedPReluActivation(ActivationModule):
    """f(x) = x for x > 0, else a·x, with one learned slope a for the layer (initially 0.25). He 2015.

    At export the slope has become a constant of the node, and the body is a LeakyRelu that fuses into the convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.weight = nn.Parameter(torch.full((1,), 0.25))

    def formula(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.LeakyRelu, attributes={"alpha": self.weight.item()})


class PReluActivation(ActivationModule):
    """f(x) = x for x > 0, else a_c·x, with one learned slope a_c per channel (initially 0.25). He 2015."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def formula(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight)

    def node(self) -> ActivationNode:
        slopes_C11 = self.weight.detach().reshape(-1, 1, 1)
        convex = bool((slopes_C11 <= 1).all())
        body, cpu = (bodies.PReluMax, bodies.PReluMaxCpu) if convex else (bodies.PRelu, bodies.PReluCpu)
        return ActivationNode(body, {"slope": slopes_C11}, overloads={"cpu": cpu, "cuda": bodies.PReluCuda})


RECTIFIERS: dict[str, Activation] = {
    "identity": Activation(
        formula="x",
        module=IdentityActivation,
        source="the linear control",
        use="A control: what the network does without any nonlinearity but its pooling.",
        slopes=(1.0, 1.0),
    ),
    "relu": Activation(
        formula="max(0, x)",
        module=ReluActivation,
        source="Nair & Hinton 2010, Rectified linear units improve restricted Boltzmann machines",
        use="The default of residual networks, and the fastest; units can die.",
        slopes=(0.0, 1.0),
        kinks={0.0: 0.0},
    ),
    "relu6": Activation(
        formula="min(max(0, x), 6)",
        module=Relu6Activation,
        source="Krizhevsky 2010, Convolutional deep belief networks on CIFAR-10",
        use="For networks that are to be quantised: the output has a fixed range; units can die at both ends.",
        slopes=(0.0, 0.0),
        kinks={0.0: 0.0, 6.0: 0.0},
    ),
    "squared_relu": Activation(
        formula="max(0, x)²",
        module=SquaredReluActivation,
        source="So et al. 2021, Primer: searching for efficient transformers (arXiv 2109.08668)",
        use="Sparser than ReLU; its slope 2x has no bound: take full pre-activation and a small learning rate.",
        slopes=(0.0, math.inf),
    ),
    "leaky_relu": Activation(
        formula="x if x > 0 else α·x",
        module=LeakyReluActivation,
        parameters={"alpha": 0.01},
        source="Maas et al. 2013, Rectifier nonlinearities improve neural network acoustic models",
        use="Almost as fast as ReLU, and no unit dies.",
        slopes=(0.01, 1.0),
        kinks={0.0: 0.01},
    ),
    "rrelu": Activation(
        formula="x if x ≥ 0 else s·x; s ~ U(lower, upper) for each element, in evaluation (lower + upper)/2",
        module=RandomisedReluActivation,
        parameters={"lower": 1 / 8, "upper": 1 / 3},
        source="Xu et al. 2015, Empirical evaluation of rectified activations (arXiv 1505.00853)",
        use="Regularises small data sets by noise in the slope; evaluation is a leaky ReLU. The bounds are PyTorch's: "
        "the paper's experiments divide by a draw from U(3, 8).",
        slopes=(11 / 48, 1.0),
        kinks={0.0: 11 / 48},
        gradient="in training f′(x) for x < 0 is the slope that was drawn, and f′(0) = 1",
    ),
    "prelu_shared": Activation(
        formula="x if x > 0 else a·x; a learned, one for the layer, initially 0.25",
        module=SharedPReluActivation,
        source="He et al. 2015, Delving deep into rectifiers (arXiv 1502.01852)",
        use="A leaky ReLU that finds its slope; no weight decay on a. Served as fast as leaky_relu.",
        slopes=(0.25, 1.0),
        kinks={0.0: 0.25},
    ),
    "prelu": Activation(
        formula="x if x > 0 else a_c·x; a_c learned for each channel, initially 0.25",
        module=PReluActivation,
        source="He et al. 2015, Delving deep into rectifiers (arXiv 1502.01852)",
        use="Each channel finds its own slope, at almost no cost in parameters; no weight decay on a.",
        slopes=(0.25, 1.0),
        kinks={0.0: 0.25},
    ),
}
