"""Rectifiers whose shape depends on the image: dynamic ReLU and the funnel ReLU."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.activations import bodies
from training.activations.entry import Activation, ActivationModule, ActivationNode

PIECES = 2


class DynamicReluActivation(ActivationModule):
    """f(x) = max over k = 1, 2 of (a_k·x + b_k), with coefficients that a small network reads from the whole image.

    a = α + λ_a·Δa, b = λ_b·Δb, α = (1, 0), Δ = 2σ(W₂·relu(W₁·mean(x))) − 1: one set of coefficients for all channels
    (form A) or one for each channel (form B, `per_channel`). W₂ starts at zero, so that f starts as ReLU. In form C
    (`spatial`) the result is multiplied by π = min(HW/3 · softmax(z/10), 1), z a 1×1 convolution of x and the softmax
    over positions; z starts at zero, so that f starts as ReLU/3.

    Raises `ValueError` for λ ≤ 0 and for a reduction below 1. Chen 2020 (arXiv 2003.10027).
    """

    TEMPERATURE = 10.0

    def __init__(
        self,
        channels: int,
        per_channel: bool,
        spatial: bool,
        lambda_a: float = 1.0,
        lambda_b: float = 0.5,
        reduction: float = 4,
    ) -> None:
        super().__init__(channels)
        for name, value in {"lambda_a": lambda_a, "lambda_b": lambda_b}.items():
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value} of dynamic_relu is not allowed: use a finite number above 0")
        if not (reduction >= 1 and float(reduction).is_integer()):
            raise ValueError(f"reduction={reduction} of dynamic_relu is not allowed: use a whole number, at least 1")
        self.lambda_a, self.lambda_b = lambda_a, lambda_b
        hidden = max(1, channels // int(reduction))
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, 2 * PIECES * (channels if per_channel else 1))
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)
        self.attention = nn.Conv2d(channels, 1, 1) if spatial else None
        if self.attention is not None:
            nn.init.zeros_(self.attention.weight)
            assert self.attention.bias is not None
            nn.init.zeros_(self.attention.bias)

    def formula(self, x: Tensor) -> Tensor:
        residuals = self.excite(F.relu(self.squeeze(x.mean((2, 3)))))
        # 2σ(z) − 1 = tanh(z/2)
        a1, a2, b1, b2 = torch.tanh(residuals / 2)[:, :, None, None].chunk(2 * PIECES, dim=1)
        first = (1 + self.lambda_a * a1) * x + self.lambda_b * b1
        second = self.lambda_a * a2 * x + self.lambda_b * b2
        y = torch.maximum(first, second)
        return y if self.attention is None else y * self._weights(self.attention(x))

    def _weights(self, z_N1HW: Tensor) -> Tensor:
        positions = z_N1HW.shape[2] * z_N1HW.shape[3]
        share = torch.softmax(z_N1HW.flatten(1) / self.TEMPERATURE, dim=1).reshape(z_N1HW.shape)
        return (share * (positions / 3)).clamp(max=1)

    def node(self) -> ActivationNode:
        tensors = {
            "squeeze_weight": self.squeeze.weight[:, :, None, None],
            "squeeze_bias": self.squeeze.bias,
            # tanh(z/2): the half is folded in.
            "excite_weight": self.excite.weight[:, :, None, None] / 2,
            "excite_bias": self.excite.bias / 2,
        }
        attributes = {"lambda_a": self.lambda_a, "lambda_b": self.lambda_b}
        if self.attention is None:
            return ActivationNode(bodies.DynamicRelu, tensors, attributes)
        assert self.attention.bias is not None
        # softmax(z/τ): the temperature is folded in; the bias cancels in the softmax.
        tensors["attention_weight"] = self.attention.weight / self.TEMPERATURE
        return ActivationNode(bodies.DynamicReluSpatial, tensors, attributes)


class FunnelReluActivation(ActivationModule):
    """f(x) = max(x, BN(depthwise 3×3 convolution of x)), zeros beyond the border. Ma 2020.

    The window starts as PyTorch initialises a convolution. At export the normalisation is folded into it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.window = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def formula(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.bn(self.window(x)))

    def node(self) -> ActivationNode:
        assert self.bn.running_mean is not None
        assert self.bn.running_var is not None
        scale = self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)
        tensors = {
            "kernel": self.window.weight * scale[:, None, None, None],
            "shift": self.bn.bias - self.bn.running_mean * scale,
        }
        return ActivationNode(bodies.FunnelRelu, tensors, {"group": self.channels})


def _form_a(channels: int, **parameters: float) -> ActivationModule:
    return DynamicReluActivation(channels, False, False, **parameters)


def _form_b(channels: int, **parameters: float) -> ActivationModule:
    return DynamicReluActivation(channels, True, False, **parameters)


def _form_c(channels: int, **parameters: float) -> ActivationModule:
    return DynamicReluActivation(channels, True, True, **parameters)


_PARAMETERS = {"lambda_a": 1.0, "lambda_b": 0.5, "reduction": 4}
_SOURCE = "Chen et al. 2020, Dynamic ReLU (arXiv 2003.10027)"
_GRADIENT = "a_k of the larger piece, and through the coefficients to every position; pieces that tie share it evenly"

DYNAMIC: dict[str, Activation] = {
    "dynamic_relu_a": Activation(
        formula="max over k = 1, 2 of (a_k·x + b_k); coefficients from the image, shared by all channels",
        module=_form_a,
        parameters=_PARAMETERS,
        source=_SOURCE,
        use="The cheapest form: four coefficients an image.",
        slopes=None,
        gradient=_GRADIENT,
        reach="image",
    ),
    "dynamic_relu_b": Activation(
        formula="max over k = 1, 2 of (a_kc·x + b_kc); coefficients from the image, for each channel",
        module=_form_b,
        parameters=_PARAMETERS,
        source=_SOURCE,
        use="The form for classification: more capacity from the same width, at the price of two small layers a site.",
        slopes=None,
        gradient=_GRADIENT,
        reach="image",
    ),
    "dynamic_relu_c": Activation(
        formula="π·max over k = 1, 2 of (a_kc·x + b_kc), π = min(HW/3 · softmax(z/10), 1) over positions",
        module=_form_c,
        parameters=_PARAMETERS,
        source=_SOURCE,
        use="Form B with spatial attention, meant for keypoints and dense prediction.",
        slopes=None,
        gradient=_GRADIENT,
        reach="image",
    ),
    "frelu": Activation(
        formula="max(x, BN(depthwise 3×3 convolution of x))",
        module=FunnelReluActivation,
        source="Ma et al. 2020, Funnel activation for visual recognition (arXiv 2007.11824)",
        use="Looks at the neighbourhood: adds a depthwise convolution and its normalisation to every site.",
        slopes=None,
        gradient="goes to the larger of x and the window; where they tie both get half",
        reach="image",
    ),
}
