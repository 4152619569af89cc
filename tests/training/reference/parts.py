"""Stems, branches, shortcuts and merges, by the keys of their catalogues."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.training.reference.layers import Layers


class Weights(NamedTuple):
    """One convolution of a branch."""

    channels: int
    """Nominal."""
    kernel: int
    shrinks: bool = False
    grouped: bool = False


# Stems: what enters the stages, before its first normalisation; and whether it is pooled.


def deep_stem(net: Layers, x: Tensor) -> tuple[Tensor, bool]:
    """He 2018, figure 2(b)."""
    x = net.activate("conv1.act1", net.normalise("conv1.1", net.convolve("conv1.0", x, 2)))
    x = net.activate("conv1.act2", net.normalise("conv1.4", net.convolve("conv1.3", x)))
    return net.convolve("conv1.6", x), True


def padding_stem(net: Layers, x: Tensor) -> tuple[Tensor, bool]:
    """Jacobsen 2018: zeros before the channels of the image."""
    zeros = net.activation.width_before(net.variant.entering) - x.shape[1]
    return torch.cat([torch.zeros_like(x[:, :1]).expand(-1, zeros, -1, -1), x], 1), False


STEMS: dict[str, Callable[[Layers, Tensor], tuple[Tensor, bool]]] = {
    "cifar": lambda net, x: (net.convolve("conv1", x), False),
    "imagenet": lambda net, x: (net.convolve("conv1", x, 2), True),
    "padding": padding_stem,
    "deep": deep_stem,
}

# Branches: nominal width of the stage and of a bottleneck's 3×3 → the convolutions.
BRANCHES: dict[str, Callable[[int, int], list[Weights]]] = {
    "basic": lambda width, _: [Weights(width, 3, True), Weights(width, 3)],
    # ResNet "v1.5", torchvision's.
    "bottleneck": lambda width, inner: [Weights(inner, 1), Weights(inner, 3, True, True), Weights(4 * width, 1)],
    # He 2015.
    "bottleneck_a": lambda width, inner: [
        Weights(inner, 1, True), Weights(inner, 3, grouped=True), Weights(4 * width, 1),
    ],
    # Jacobsen 2018.
    "quartered": lambda width, _: [Weights(width // 4, 3, True), Weights(width // 4, 3), Weights(width, 3)],
}  # fmt: skip


# Shortcuts where the shape changes: x, channels, stride.


def padded(net: Layers, name: str, x: Tensor, channels: int, stride: int) -> Tensor:
    """Option A of He 2015, which cannot take channels away: there it is option B."""
    added = channels - x.shape[1]
    if added < 0:
        return net.project(name, (0, 1), x, stride)
    zeros = torch.zeros_like(x[:, :1, ::stride, ::stride])
    parts = [zeros.expand(-1, count, -1, -1) for count in (added // 2, added - added // 2)]
    return torch.cat([parts[0], x[:, :, ::stride, ::stride], parts[1]], 1)


def average(net: Layers, name: str, x: Tensor, _: int, stride: int) -> Tensor:
    """He 2018, figure 2(c): the mean of what there is of each square."""
    if stride > 1:
        edges = (0, -x.shape[3] % stride, 0, -x.shape[2] % stride)
        sums, count = (
            F.pad(part, edges).unfold(2, stride, stride).unfold(3, stride, stride).sum((4, 5))
            for part in (x, torch.ones_like(x))
        )
        x = sums / count
    return net.project(name, (1, 2), x, 1)


def space_to_depth(_: Layers, __: str, x: Tensor, channels: int, stride: int) -> Tensor:
    """Jacobsen 2018, figure 2: every position of a square a channel."""
    count, entering, height, width = x.shape
    squares = x.reshape(count, entering, height // stride, stride, width // stride, stride)
    y = squares.permute(0, 1, 3, 5, 2, 4).reshape(count, -1, height // stride, width // stride)
    assert y.shape[1] == channels
    return y


SHORTCUTS: dict[str, Callable[[Layers, str, Tensor, int, int], Tensor]] = {
    "padded": padded,
    "projection": lambda net, name, x, _, stride: net.project(name, (0, 1), x, stride),
    "average": average,
    "space_to_depth": space_to_depth,
}


# Merges: branch and shortcut, He 2016, section 3.1.


def gated(net: Layers, name: str, branch: Tensor, around: Tensor, exclusive: bool) -> Tensor:
    weight, bias = (net.state[f"{name}.gate.{part}"] for part in ("weight", "bias"))
    product = torch.einsum("oi,nihw->nohw", weight[:, :, 0, 0], around)
    gate = 1 / (1 + torch.exp(-(product + bias[:, None, None])))
    return (gate * branch if exclusive else branch) + (1 - gate) * around


def scaled(net: Layers, _: str, branch: Tensor, around: Tensor) -> Tensor:
    given = net.config.shortcut_parameters
    return given.get("shortcut", 0.5) * around + given.get("branch", 0.5) * branch


def dropped(net: Layers, _: str, branch: Tensor, around: Tensor) -> Tensor:
    return branch + F.dropout(around, net.config.shortcut_parameters.get("rate", 0.5), net.training)


def added(_: Layers, __: str, branch: Tensor, around: Tensor) -> Tensor:
    return branch + around


MERGES: dict[str, Callable[[Layers, str, Tensor, Tensor], Tensor]] = {
    "identity": added,
    "none": added,
    "conv_1x1": added,
    "constant_scaling": scaled,
    "exclusive_gating": partial(gated, exclusive=True),
    "shortcut_only_gating": partial(gated, exclusive=False),
    "dropout": dropped,
}
