"""Parameters, multiply-adds and layers of a network, counted on paper: without memory or arithmetic."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.activations.entry import ActivationModule
from training.resnet.network import NetworkConfig, assemble
from training.resnet.squeeze import SqueezeExcitation
from training.resnet.variants import find_variant


@dataclass(frozen=True)
class Counts:
    """Of a network, or of a part of one."""

    parameters: int
    multiply_adds: int
    """Of convolutions and matrix products, for one image."""
    layers: int
    """Convolutions and linear layers, without those of shortcuts, gates and activations."""


def count_network(config: NetworkConfig, image: int | None = None) -> Counts:
    """Count the network of `config` for images of `image` × `image`, or of the size it was published for.

    Blocks of a stage after its first are alike, so that one of them is counted for all; not so layers of a dense stage.
    Raises `ValueError` as `build_network` does.
    """
    variant = find_variant(config.network)
    alike = variant.stage in ("residual", "plain")
    built = replace(variant, depths=tuple(min(depth, 2) for depth in variant.depths)) if alike else variant
    with torch.device("meta"):
        network = assemble(built, config).eval()
    size = variant.image if image is None else image
    repeated = {f"layer{number}.1": depth - 2 for number, depth in enumerate(variant.depths, 1) if depth > 2 and alike}
    counted = count_parts(network, (config.channels, size, size), ["", *repeated])
    whole = counted[""]
    for name, times in repeated.items():
        part = counted[name]
        whole = Counts(
            whole.parameters + times * part.parameters,
            whole.multiply_adds + times * part.multiply_adds,
            whole.layers + times * part.layers,
        )
    return whole


def count_parts(network: nn.Module, image: tuple[int, int, int], names: list[str]) -> dict[str, Counts]:
    """Count modules of a network by their names, "" for all of it; image is C×H×W."""
    device = next(network.parameters()).device
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, *image, device=device))
    root = type(network).__name__
    counts = {}
    for name in names:
        part = network.get_submodule(name)
        operations = counter.get_flop_counts()[f"{root}.{name}" if name else "Global"]
        parameters = sum(parameter.numel() for parameter in part.parameters())
        # A multiplication and an addition are two operations.
        counts[name] = Counts(parameters, sum(operations.values()) // 2, sum(1 for _ in _layers(part)))
    return counts


def _layers(part: nn.Module) -> Iterator[nn.Module]:
    """What the name of a network counts."""
    if isinstance(part, nn.Conv2d | nn.Linear | nn.RNNBase):
        yield part
    if isinstance(part, ActivationModule | SqueezeExcitation):
        return
    for name, child in part.named_children():
        if name not in ("downsample", "merge"):
            yield from _layers(child)
