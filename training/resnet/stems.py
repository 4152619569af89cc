"""The first layers of a network, by family. Parts are named as published checkpoints name them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from training.activations.entry import Activation
from training.resnet.block import Build
from training.resnet.branches import convolution_3x3


@dataclass(frozen=True)
class Stem:
    """The parts before and after the first normalisation and activation, in their order."""

    before: Mapping[str, nn.Module]
    """Put out what an activation takes."""
    after: Mapping[str, nn.Module] = field(default_factory=dict)


def cifar_stem(channels: int, width: int, activation: Activation, _: Build) -> Stem:
    """A 3×3 convolution."""
    return Stem({"conv1": convolution_3x3(channels, activation.width_before(width))})


def imagenet_stem(channels: int, width: int, activation: Activation, _: Build) -> Stem:
    """A 7×7 convolution of stride 2, and 3×3 pooling of stride 2."""
    convolution = nn.Conv2d(channels, activation.width_before(width), 7, stride=2, padding=3, bias=False)
    return Stem({"conv1": convolution}, {"maxpool": _pooling()})


def deep_stem(channels: int, width: int, activation: Activation, normalise: Build) -> Stem:
    """Three 3×3 convolutions in place of the 7×7, the first of stride 2, two of half the width (He 2018, "C")."""
    half = width // 2
    before, after = activation.width_before(half), activation.width_after(half)
    convolutions = nn.Sequential()
    # Weights are numbered as in published checkpoints, and activations, which have none, have names.
    convolutions.add_module("0", convolution_3x3(channels, before, 2))
    convolutions.add_module("1", normalise(before))
    convolutions.add_module("act1", activation.build(before))
    convolutions.add_module("3", convolution_3x3(after, before))
    convolutions.add_module("4", normalise(before))
    convolutions.add_module("act2", activation.build(before))
    convolutions.add_module("6", convolution_3x3(after, activation.width_before(width)))
    return Stem({"conv1": convolutions}, {"maxpool": _pooling()})


def _pooling() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, padding=1)


class ChannelPadding(nn.Module):
    """Channels of zeros before those of the image: what loses nothing (Jacobsen 2018)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        if width < channels:
            raise ValueError(f"{channels} channels of an image do not fit into {width}: choose a wider network")
        self.zeros = width - channels

    def forward(self, images: Tensor) -> Tensor:
        return F.pad(images, (0, 0, 0, 0, self.zeros, 0))

    def inverse(self, y: Tensor) -> Tensor:
        """The images."""
        return y[:, self.zeros :]


def padding_stem(channels: int, width: int, activation: Activation, _: Build) -> Stem:
    """No convolution: zeros fill the channels up."""
    return Stem({"padding": ChannelPadding(channels, activation.width_before(width))})


# Image channels, nominal width, activation, normalisation → the parts.
STEMS: dict[str, Callable[[int, int, Activation, Build], Stem]] = {
    "cifar": cifar_stem,
    "imagenet": imagenet_stem,
    "padding": padding_stem,
    "deep": deep_stem,
}
