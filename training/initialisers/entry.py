"""What an entry of the catalogue of initialisers is, and the layers that it speaks of."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from training.activations.entry import ActivationModule

Weighted = nn.Conv2d | nn.Linear

# The network, normalised images N×C×H×W or None, parameters by name. Draws come from PyTorch's global generator.
Initialise = Callable[[nn.Module, Tensor | None, Mapping[str, float]], None]


@dataclass(frozen=True)
class Initialiser:
    """An entry of the catalogue."""

    function: Initialise
    """Changes the weights of the network in place."""
    source: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    """By name, with their defaults."""
    needs_images: bool = False
    needs_weights: bool = False
    """Whether a file of weights is loaded over what `function` did."""


def weighted(network: nn.Module) -> Iterator[tuple[str, Weighted]]:
    """Convolutions and linear layers by name, in the order of the network; what activations have learned is theirs."""
    own = {part for module in network.modules() if isinstance(module, ActivationModule) for part in module.modules()}
    for name, module in network.named_modules():
        if module not in own and isinstance(module, (nn.Conv2d, nn.Linear)):
            yield name, module


def convolutions(network: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """The convolutions alone."""
    return ((name, module) for name, module in weighted(network) if isinstance(module, nn.Conv2d))


def norms(network: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """Batch normalisations by name, but for those inside of activations."""
    own = {part for module in network.modules() if isinstance(module, ActivationModule) for part in module.modules()}
    for name, module in network.named_modules():
        if module not in own and isinstance(module, nn.BatchNorm2d):
            yield name, module
