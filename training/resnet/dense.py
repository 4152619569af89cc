"""Densely connected stages, DenseNet-BC (Huang 2017): every layer reads what all before it in its stage put out.

x₀ enters; x_l = [x_{l−1}, branch(x_{l−1})], concatenated along the channels, where a branch is BN, activation, 1×1
convolution to four times the growth, BN, activation, 3×3 convolution to the growth. There is no sum, so there are no
block ends.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.activations.entry import Activation
from training.resnet.block import Build
from training.resnet.branches import convolution_1x1, convolution_3x3
from training.resnet.variants import Variant

BOTTLENECK = 4
"""Width of the 1×1 convolution, in growths."""
COMPRESSION = 0.5
"""Share of the channels that a transition keeps."""


def check_dense(network: str, arrangement: str, shortcut: str, normaliser: str, regularisers: Iterable[str]) -> None:
    """Raise `ValueError` for what has no meaning where branches are concatenated."""
    if arrangement != "full_preactivation":
        raise ValueError(
            f"network {network!r} is not built in arrangement {arrangement!r}: a layer reads the outputs of many "
            "others, each of which its own normalisation and activation must precede; choose 'full_preactivation'"
        )
    if shortcut != "identity":
        raise ValueError(
            f"network {network!r} concatenates and adds nothing, so there is no place for shortcut {shortcut!r}: "
            "leave it at 'identity'"
        )
    if normaliser != "batch":
        raise ValueError(
            f"network {network!r} is not built with normaliser {normaliser!r}, which keeps the scale of sums where "
            "this network concatenates; choose 'batch'"
        )
    for regulariser in regularisers:
        raise ValueError(
            f"network {network!r} has no residual branches, in which regulariser {regulariser!r} stands: leave it out"
        )


class DenseLayer(nn.Module):
    """[x, conv(act(BN(conv(act(BN(x))))))]; `width` and `growth` are nominal."""

    def __init__(self, width: int, growth: int, activation: Activation, normalise: Build) -> None:
        super().__init__()
        entering, inner = activation.width_before(width), activation.width_before(BOTTLENECK * growth)
        self.bn1 = normalise(entering)
        self.act1 = activation.build(entering)
        self.conv1 = convolution_1x1(activation.width_after(width), inner)
        self.bn2 = normalise(inner)
        self.act2 = activation.build(inner)
        self.conv2 = convolution_3x3(activation.width_after(BOTTLENECK * growth), activation.width_before(growth))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.act1(self.bn1(x)))
        return torch.cat((x, self.conv2(self.act2(self.bn2(y)))), 1)


def transition(width: int, kept: int, activation: Activation, normalise: Build) -> nn.Sequential:
    """Between stages: BN, activation, 1×1 convolution to fewer channels, average over 2×2."""
    before = activation.width_before(width)
    parts = nn.Sequential()
    parts.add_module("bn", normalise(before))
    parts.add_module("act", activation.build(before))
    parts.add_module("conv", convolution_1x1(activation.width_after(width), activation.width_before(kept)))
    parts.add_module("pool", nn.AvgPool2d(2))
    return parts


def dense_stages(variant: Variant, activation: Activation, normalise: Build) -> tuple[dict[str, nn.Module], int]:
    """The stages and transitions by name, and the nominal width of what leaves them, bare."""
    width = variant.entering
    stages: dict[str, nn.Module] = {}
    for number, (depth, growth) in enumerate(zip(variant.depths, variant.widths, strict=True), start=1):
        if number > 1:
            kept = int(COMPRESSION * width)
            stages[f"transition{number - 1}"] = transition(width, kept, activation, normalise)
            width = kept
        widths = [width + index * growth for index in range(depth)]
        stages[f"layer{number}"] = nn.Sequential(*(DenseLayer(w, growth, activation, normalise) for w in widths))
        width += depth * growth
    return stages, width
