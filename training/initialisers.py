"""Weights before the first step."""

from collections.abc import Callable

from torch import nn


def he(network: nn.Module) -> None:
    """N(0, 2 / fan_out) for convolutions, 1 and 0 for batch normalisation; the linear layer is left alone. He 2015."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


INITIALISERS: dict[str, Callable[[nn.Module], None]] = {"he": he}
