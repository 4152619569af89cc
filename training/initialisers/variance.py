"""Independent draws of a variance: weights of a layer with n_in inputs and n_out outputs a position.

n_in = channels in a group · k², n_out = channels out · k². Biases are 0, but for those that start somewhere on purpose
(gates). `he` leaves linear layers as PyTorch makes them, U(−1/√n_in, 1/√n_in).
"""

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from training.initialisers.entry import Initialise, Weighted, norms, weighted
from training.resnet.merges import Gating

Fans = Callable[[int, int], float]


def fan_in(n_in: int, n_out: int) -> float:  # noqa: ARG001
    """1 / n_in (LeCun 1998): a linear layer keeps the variance of what it reads."""
    return 1 / n_in


def fan_out(n_in: int, n_out: int) -> float:  # noqa: ARG001
    """1 / n_out: it keeps the variance of gradients."""
    return 1 / n_out


def fan_mean(n_in: int, n_out: int) -> float:
    """2 / (n_in + n_out) (Glorot & Bengio 2010): between the two."""
    return 2 / (n_in + n_out)


def fans(weight: Tensor) -> tuple[int, int]:
    """(n_in, n_out) of a weight O×I or O×I×k×k."""
    receptive = weight[0, 0].numel()
    return weight.shape[1] * receptive, weight.shape[0] * receptive


def he_of(share: Fans, uniform: bool) -> Initialise:
    """Var = 2 · share for convolutions (He 2015, as a ReLU passes half of what it gets); no linear layer."""

    def initialise(network: nn.Module, _: Tensor | None, __: Mapping[str, float]) -> None:
        draw_he(network, share, uniform)

    return initialise


def scaled(share: Fans, uniform: bool) -> Initialise:
    """Var = share for every layer."""

    def initialise(network: nn.Module, _: Tensor | None, __: Mapping[str, float]) -> None:
        for layer in _prepared(network):
            draw(layer.weight, math.sqrt(share(*fans(layer.weight))), uniform)

    return initialise


def fixed(uniform: bool) -> Initialise:
    """Standard deviation `std` for every layer, whatever its size."""

    def initialise(network: nn.Module, _: Tensor | None, parameters: Mapping[str, float]) -> None:
        for layer in _prepared(network):
            draw(layer.weight, parameters["std"], uniform)

    return initialise


def zeros(network: nn.Module, _: Tensor | None, __: Mapping[str, float]) -> None:
    """Weights of 0: all units of a layer are equal, get equal gradients and stay equal; a control that must fail."""
    for layer in _prepared(network):
        nn.init.zeros_(layer.weight)


def draw(weight: Tensor, std: float, uniform: bool) -> None:
    """N(0, std²), or U(−√3·std, √3·std), which has the same variance."""
    if uniform:
        nn.init.uniform_(weight, -math.sqrt(3) * std, math.sqrt(3) * std)
    else:
        nn.init.normal_(weight, 0, std)


def clear_biases(network: nn.Module) -> None:
    """Biases of convolutions and linear layers to 0, but for those of gates."""
    gates = {module.gate for module in network.modules() if isinstance(module, Gating)}
    for _, layer in weighted(network):
        if layer.bias is not None and layer not in gates:
            nn.init.zeros_(layer.bias)


def neutral_norms(network: nn.Module) -> None:
    """1 and 0 for batch normalisation."""
    for _, norm in norms(network):
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)


def draw_he(network: nn.Module, share: Fans, uniform: bool = False) -> None:
    """Var = 2 · share for convolutions, neutral norms; the linear layer is left alone."""
    for _, layer in weighted(network):
        if isinstance(layer, nn.Conv2d):
            # In this order, as PyTorch has it: the same bits.
            draw(layer.weight, math.sqrt(2.0) * math.sqrt(share(*fans(layer.weight))), uniform)
    neutral_norms(network)


def _prepared(network: nn.Module) -> list[Weighted]:
    neutral_norms(network)
    clear_biases(network)
    return [layer for _, layer in weighted(network)]
