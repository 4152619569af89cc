"""The convolutions of a residual branch, without normalisation or activation: those belong to the arrangement."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from training.activations.entry import Activation


@dataclass(frozen=True)
class BranchShape:
    """What the convolutions of one branch are to be."""

    entering: int
    """Channels that the first of them takes."""
    width: int
    """Nominal width of the stage."""
    inner: int
    """Nominal width of a bottleneck's 3×3 convolution."""
    stride: int = 1
    groups: int = 1
    """Of a bottleneck's 3×3 convolution."""


@dataclass(frozen=True)
class Branch:
    """A kind of residual branch; `expansion` is its output width relative to the stage's width."""

    convolutions: Callable[[BranchShape, Activation], list[nn.Conv2d]]
    """The branch's convolutions in order.

    Each puts out what an activation takes, and all but the first take what an activation gives."""
    expansion: int


def convolution_3x3(channels_in: int, channels_out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3×3 convolution that keeps the size up to its stride; no bias, since a normalisation follows."""
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, groups=groups, bias=False)


def convolution_1x1(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """A 1×1 convolution; no bias, since a normalisation follows."""
    return nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)


def _basic(shape: BranchShape, activation: Activation) -> list[nn.Conv2d]:
    """Two 3×3 convolutions, the first of which shrinks."""
    before, after = activation.width_before(shape.width), activation.width_after(shape.width)
    return [convolution_3x3(shape.entering, before, shape.stride), convolution_3x3(after, before)]


def _bottleneck(shape: BranchShape, activation: Activation) -> list[nn.Conv2d]:
    """Shrinks in the 3×3 convolution, as all published checkpoints do ("B", "v1.5")."""
    return _narrowed(shape, activation, 1, shape.stride)


def _bottleneck_a(shape: BranchShape, activation: Activation) -> list[nn.Conv2d]:
    """Shrinks in the first 1×1 convolution, which so never sees three quarters of its input (He 2015)."""
    return _narrowed(shape, activation, shape.stride, 1)


def _narrowed(shape: BranchShape, activation: Activation, first: int, second: int) -> list[nn.Conv2d]:
    before, after = activation.width_before(shape.inner), activation.width_after(shape.inner)
    return [
        convolution_1x1(shape.entering, before, first),
        convolution_3x3(after, before, second, shape.groups),
        convolution_1x1(after, activation.width_before(4 * shape.width)),
    ]


def _quartered(shape: BranchShape, activation: Activation) -> list[nn.Conv2d]:
    """Three 3×3 convolutions, between which there is a quarter of the width (Jacobsen 2018)."""
    quarter = max(1, shape.width // 4)
    before, after = activation.width_before(quarter), activation.width_after(quarter)
    return [
        convolution_3x3(shape.entering, before, shape.stride),
        convolution_3x3(after, before),
        convolution_3x3(after, activation.width_before(shape.width)),
    ]


BRANCHES: dict[str, Branch] = {
    "basic": Branch(_basic, expansion=1),
    "bottleneck": Branch(_bottleneck, expansion=4),
    "quartered": Branch(_quartered, expansion=1),
    "bottleneck_a": Branch(_bottleneck_a, expansion=4),
}
