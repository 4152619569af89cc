"""Activations of the form x · gate(x): not monotonic, so saturation cannot be told from their output."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.activations import bodies
from training.activations.entry import Activation, ActivationModule, ActivationNode

SWISH_MINIMUM = -0.2784645427610738
"""Of x·σ(x), at −1.2784645427610738."""
GELU_SIGMOID_SCALE = 1.702


class GeluActivation(ActivationModule):
    """f(x) = x·Φ(x), with the exact error function; minimum −0.1700 at −0.7518. Hendrycks & Gimpel 2016."""

    output_range = (-0.16997120747990369, math.inf)
    saturation = None

    def formula(self, x: Tensor) -> Tensor:
        return F.gelu(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Gelu)


class GeluTanhActivation(ActivationModule):
    """f(x) = x/2·(1 + tanh(√(2/π)(x + 0.044715x³))); minimum −0.1700 at −0.7525. Hendrycks & Gimpel 2016."""

    output_range = (-0.17004075057125412, math.inf)
    saturation = None

    def formula(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.GeluTanh)


class GeluSigmoidActivation(ActivationModule):
    """f(x) = x·σ(1.702x); minimum −0.1636 at −0.7512. Hendrycks & Gimpel 2016."""

    output_range = (SWISH_MINIMUM / GELU_SIGMOID_SCALE, math.inf)
    saturation = None

    def formula(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(GELU_SIGMOID_SCALE * x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.GeluSigmoid, attributes={"scale": GELU_SIGMOID_SCALE})


class SwishActivation(ActivationModule):
    """f(x) = x·σ(x), also called SiLU; minimum −0.2785 at −1.2785. Ramachandran 2017."""

    output_range = (SWISH_MINIMUM, math.inf)
    saturation = None

    def formula(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Swish)


class LearnedSwishActivation(ActivationModule):
    """f(x) = x·σ(β_c·x), with one learned β_c per channel (initially 1). Ramachandran 2017."""

    saturation = None

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.beta = nn.Parameter(torch.ones(channels))

    def formula(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta.reshape(-1, 1, 1) * x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.SwishBeta, inputs={"negative_beta": -self.beta.detach().reshape(-1, 1, 1)})


class SuActivation(ActivationModule):
    """f(x) = max(x, x·e^{−|x|}) = x·e^{min(x, 0)}; minimum −1/e at −1. Su Jianlin 2017."""

    output_range = (-1 / math.e, math.inf)
    saturation = None

    def formula(self, x: Tensor) -> Tensor:
        return x * torch.exp(x.clamp(max=0))

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Su)


class HardSwishActivation(ActivationModule):
    """f(x) = x·min(max(0, x + 3), 6)/6; minimum −3/8 at −3/2. Howard 2019."""

    output_range = (-0.375, math.inf)
    saturation = None
    zero_is_dead = True

    def formula(self, x: Tensor) -> Tensor:
        return F.hardswish(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.HardSwish)


class MishActivation(ActivationModule):
    """f(x) = x·tanh(ln(1 + eˣ)); minimum −0.3088 at −1.1924. Misra 2019."""

    output_range = (-0.30884341301725043, math.inf)
    saturation = None

    def formula(self, x: Tensor) -> Tensor:
        return F.mish(x)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Mish)


SELF_GATED: dict[str, Activation] = {
    "gelu": Activation(
        formula="x·Φ(x)",
        module=GeluActivation,
        source="Hendrycks & Gimpel 2016, Gaussian error linear units (arXiv 1606.08415)",
        use="The exact form, with the error function: what PyTorch calls gelu.",
        slopes=(0.0, 1.0),
    ),
    "gelu_tanh": Activation(
        formula="x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))",
        module=GeluTanhActivation,
        source="Hendrycks & Gimpel 2016 (arXiv 1606.08415), section 2",
        use="The approximation of GPT-2 and BERT's code: differs from gelu by up to 5e-4, so it is not gelu.",
        slopes=(0.0, 1.0),
    ),
    "gelu_sigmoid": Activation(
        formula="x·σ(1.702·x)",
        module=GeluSigmoidActivation,
        source="Hendrycks & Gimpel 2016 (arXiv 1606.08415), section 2",
        use="The coarse approximation (QuickGELU of CLIP): differs from gelu by up to 0.02.",
        slopes=(0.0, 1.0),
    ),
    "swish": Activation(
        formula="x·σ(x)",
        module=SwishActivation,
        source="Ramachandran et al. 2017, Searching for activation functions (arXiv 1710.05941)",
        use="Smooth and cheap; the usual choice where ReLU is left for something smooth.",
        slopes=(0.0, 1.0),
    ),
    "swish_beta": Activation(
        formula="x·σ(β_c·x); β_c learned for each channel, initially 1",
        module=LearnedSwishActivation,
        source="Ramachandran et al. 2017 (arXiv 1710.05941)",
        use="Lets each channel choose between linear (β = 0), swish and ReLU (β → ∞); no weight decay on β.",
        slopes=(0.0, 1.0),
    ),
    "su": Activation(
        formula="max(x, x·e^{−|x|})",
        module=SuActivation,
        source="Su Jianlin 2017, kexue.fm/archives/4647",
        use="A swish with a single exponential, and the linear branch exact.",
        slopes=(0.0, 1.0),
    ),
    "hard_swish": Activation(
        formula="x·min(max(0, x + 3), 6)/6",
        module=HardSwishActivation,
        source="Howard et al. 2019, Searching for MobileNetV3 (arXiv 1905.02244)",
        use="A swish without exponentials, for small devices and quantised networks.",
        slopes=(0.0, 1.0),
        kinks={-3.0: 0.0, 3.0: 1.0},
    ),
    "mish": Activation(
        formula="x·tanh(ln(1 + eˣ))",
        module=MishActivation,
        source="Misra 2019, Mish: a self regularized non-monotonic activation function (arXiv 1908.08681)",
        use="Smoother than swish; dear in a plain export, where it costs a logarithm and a tanh.",
        slopes=(0.0, 1.0),
    ),
}
