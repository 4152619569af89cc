"""Bounded, monotonic activations: the step, the sigmoids and their piecewise linear stand-ins."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.manifest import Saturation
from training.activations import bodies
from training.activations.entry import Activation, ActivationModule, ActivationNode

# tanh′ = 1 − y² < 0.01 where |y| > √0.99, that is |x| > 2.99.
_TANH_EDGE = math.sqrt(0.99)
# σ′ = y(1 − y) < 0.01 · 1/4 where |y − 1/2| > √0.99 / 2, that is |x| > 5.99.
_SIGMOID_EDGE = math.sqrt(0.99) / 2


class _StraightThrough(torch.autograd.Function):
    """1[x ≥ 0] forwards, the identity backwards."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class StepActivation(ActivationModule):
    """f(x) = 1[x ≥ 0]; training uses the straight-through gradient 1. McCulloch & Pitts 1943, Bengio 2013."""

    output_range = (0.0, 1.0)
    # Both values: a step is flat wherever it is not vertical.
    # The straight-through gradient reaches a unit of nothing but zeros too: it is not dead.
    saturation = Saturation(below=0.0, above=1.0)

    def formula(self, x: Tensor) -> Tensor:
        y: Tensor = _StraightThrough.apply(x)  # type: ignore[no-untyped-call]
        return y

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Step)


class SigmoidActivation(ActivationModule):
    """f(x) = 1 / (1 + e⁻ˣ)."""

    output_range = (0.0, 1.0)
    saturation = Saturation(below=0.5 - _SIGMOID_EDGE, above=0.5 + _SIGMOID_EDGE)

    def formula(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Sigmoid)


class TanhActivation(ActivationModule):
    """f(x) = tanh x = 2σ(2x) − 1. LeCun 1998."""

    output_range = (-1.0, 1.0)
    saturation = Saturation(below=-_TANH_EDGE, above=_TANH_EDGE)

    def formula(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Tanh)


class HardTanhActivation(ActivationModule):
    """f(x) = min(max(−1, x), 1); f′(±1) = 0. Collobert 2004."""

    output_range = (-1.0, 1.0)
    saturation = Saturation(below=-1.0, above=1.0)

    def formula(self, x: Tensor) -> Tensor:
        return F.hardtanh(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Clip, attributes={"low": -1.0, "high": 1.0})


class HardSigmoidActivation(ActivationModule):
    """f(x) = min(max(0, αx + 1/2), 1), f′ = 0 at both kinks; α = 1/6 is PyTorch's, 0.2 that of ONNX and Keras 2."""

    output_range = (0.0, 1.0)
    saturation = Saturation(below=0.0, above=1.0)
    zero_is_dead = True

    def __init__(self, channels: int, alpha: float) -> None:
        super().__init__(channels)
        self.alpha = alpha

    def formula(self, x: Tensor) -> Tensor:
        return F.hardtanh(self.alpha * x + 0.5, 0.0, 1.0)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.HardSigmoid, attributes={"alpha": self.alpha, "beta": 0.5})


class SoftsignActivation(ActivationModule):
    """f(x) = x / (1 + |x|); f′(0) = 1. Glorot 2010."""

    output_range = (-1.0, 1.0)
    # f′ = (1 + |x|)⁻² < 0.01 where |x| > 9, that is |y| > 0.9.
    saturation = Saturation(below=-0.9, above=0.9)

    def formula(self, x: Tensor) -> Tensor:
        return F.softsign(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Softsign)


def _hard_sigmoid_six(channels: int) -> ActivationModule:
    return HardSigmoidActivation(channels, 1 / 6)


def _hard_sigmoid_five(channels: int) -> ActivationModule:
    return HardSigmoidActivation(channels, 0.2)


SIGMOIDS: dict[str, Activation] = {
    "step": Activation(
        formula="1[x ≥ 0]",
        module=StepActivation,
        source="McCulloch & Pitts 1943; gradient: Bengio et al. 2013 (arXiv 1308.3432)",
        use="The historical control, and binary units.",
        slopes=(1.0, 1.0),
        kinks={0.0: 1.0},
        gradient="straight-through: training uses 1 where the function's own slope is 0",
        continuous=False,
    ),
    "sigmoid": Activation(
        formula="1 / (1 + e⁻ˣ)",
        module=SigmoidActivation,
        source="the logistic function; Rumelhart et al. 1986",
        use="For gates. As an activation its outputs are not centred on zero, and its slope is at most 1/4.",
        slopes=(0.0, 0.0),
    ),
    "tanh": Activation(
        formula="tanh x",
        module=TanhActivation,
        source="LeCun et al. 1998, Efficient backprop",
        use="The zero-centred sigmoid; saturates beyond ±3.",
        slopes=(0.0, 0.0),
    ),
    "hard_tanh": Activation(
        formula="min(max(−1, x), 1)",
        module=HardTanhActivation,
        source="Collobert 2004, Large scale machine learning",
        use="A tanh at the price of a clip, for binary and quantised networks.",
        slopes=(0.0, 0.0),
        kinks={-1.0: 0.0, 1.0: 0.0},
    ),
    "hard_sigmoid": Activation(
        formula="min(max(0, x/6 + 1/2), 1)",
        module=_hard_sigmoid_six,
        source="Howard et al. 2019, Searching for MobileNetV3 (arXiv 1905.02244); PyTorch's",
        use="A sigmoid at the price of a clip; PyTorch's slope of 1/6.",
        slopes=(0.0, 0.0),
        kinks={-3.0: 0.0, 3.0: 0.0},
    ),
    "hard_sigmoid_02": Activation(
        formula="min(max(0, 0.2·x + 1/2), 1)",
        module=_hard_sigmoid_five,
        source="ONNX's default; Theano, Keras 2",
        use="The slope of 0.2 of ONNX, Keras 2 and the older literature: not hard_sigmoid.",
        slopes=(0.0, 0.0),
        kinks={-2.5: 0.0, 2.5: 0.0},
    ),
    "softsign": Activation(
        formula="x / (1 + |x|)",
        module=SoftsignActivation,
        source="Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks",
        use="Approaches its bounds polynomially: saturates only beyond ±9.",
        slopes=(0.0, 0.0),
    ),
}
