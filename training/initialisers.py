"""Weights before the first step."""

from collections.abc import Callable

from torch import nn

from training.activations.entry import ActivationModule


def he(network: nn.Module) -> None:
    """N(0, 2 / fan_out) for convolutions, 1 and 0 for batch normalisation; the linear layer is left alone. He 2015.

    What an activation has learned starts as the activation says.
    """
    own = {part for module in network.modules() if isinstance(module, ActivationModule) for part in module.modules()}
    for module in network.modules():
        if module in own:
            continue
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


INITIALISERS: dict[str, Callable[[nn.Module], None]] = {"he": he}
