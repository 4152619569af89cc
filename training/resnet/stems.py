"""The first layers of a network, by family. Parts are named as published checkpoints name them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from training.resnet.branches import convolution_3x3


@dataclass(frozen=True)
class Stem:
    """Image channels and width → parts before and after the first normalisation and activation, in their order."""

    before: Mapping[str, nn.Module]
    after: Mapping[str, nn.Module] = field(default_factory=dict)


def cifar_stem(channels: int, width: int) -> Stem:
    """A 3×3 convolution."""
    return Stem({"conv1": convolution_3x3(channels, width)})


def imagenet_stem(channels: int, width: int) -> Stem:
    """A 7×7 convolution of stride 2, and 3×3 pooling of stride 2."""
    convolution = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
    return Stem({"conv1": convolution}, {"maxpool": nn.MaxPool2d(3, stride=2, padding=1)})


STEMS: dict[str, Callable[[int, int], Stem]] = {
    "cifar": cifar_stem,
    "imagenet": imagenet_stem,
}
