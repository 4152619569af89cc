"""The convolutions of a residual branch, without normalisation or activation: those belong to the arrangement."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from training.activations.entry import Activation


@dataclass(frozen=True)
class Branch:
    """A kind of residual branch; `expansion` is its output width relative to the stage's width."""

    convolutions: Callable[[int, int, int, Activation], list[nn.Conv2d]]
    """(channels in, stage width, stride, activation) → the branch's convolutions in order.

    Each puts out what an activation takes, and all but the first take what an activation gives."""
    expansion: int


def convolution_3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3×3 convolution that keeps the size up to its stride; no bias, since a normalisation follows."""
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def _basic(channels_in: int, width: int, stride: int, activation: Activation) -> list[nn.Conv2d]:
    before, after = activation.width_before(width), activation.width_after(width)
    return [convolution_3x3(channels_in, before, stride), convolution_3x3(after, before)]


def _bottleneck(channels_in: int, width: int, stride: int, activation: Activation) -> list[nn.Conv2d]:
    before, after = activation.width_before(width), activation.width_after(width)
    return [
        nn.Conv2d(channels_in, before, 1, bias=False),
        convolution_3x3(after, before, stride),
        nn.Conv2d(after, activation.width_before(4 * width), 1, bias=False),
    ]


BRANCHES: dict[str, Branch] = {
    "basic": Branch(_basic, expansion=1),
    "bottleneck": Branch(_bottleneck, expansion=4),
}
