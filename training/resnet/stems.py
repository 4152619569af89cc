"""The first layers of a network, by family. Parts are named as published checkpoints name them."""

from collections.abc import Callable

from torch import nn

from training.activations.entry import Activation
from training.resnet.branches import convolution_3x3


def cifar_stem(channels: int, width: int, activation: Activation, preactivated: bool) -> dict[str, nn.Module]:
    """A 3×3 convolution; before pre-activated blocks it ends there, else BN and activation follow."""
    before = activation.width_before(width)
    return {"conv1": convolution_3x3(channels, before)} | _closing(before, activation, preactivated)


def imagenet_stem(channels: int, width: int, activation: Activation, preactivated: bool) -> dict[str, nn.Module]:
    """A 7×7 convolution of stride 2, BN and activation unless pre-activated blocks follow, 3×3 pooling of stride 2."""
    before = activation.width_before(width)
    convolution = nn.Conv2d(channels, before, 7, stride=2, padding=3, bias=False)
    pooling = nn.MaxPool2d(3, stride=2, padding=1)
    return {"conv1": convolution} | _closing(before, activation, preactivated) | {"maxpool": pooling}


def _closing(channels: int, activation: Activation, preactivated: bool) -> dict[str, nn.Module]:
    return {} if preactivated else {"bn1": nn.BatchNorm2d(channels), "act1": activation.build(channels)}


STEMS: dict[str, Callable[[int, int, Activation, bool], dict[str, nn.Module]]] = {
    "cifar": cifar_stem,
    "imagenet": imagenet_stem,
}
