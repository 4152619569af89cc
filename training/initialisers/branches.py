"""Initialisers that know where residual branches end: blocks begin as what their shortcut brings."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.initialisers.entry import norms, weighted
from training.initialisers.variance import clear_biases, draw_he, fan_out
from training.resnet.block import ResidualBlock
from training.resnet.normalisers import Multiplier


def fixup(network: nn.Module, _: Tensor | None, __: Mapping[str, float]) -> None:
    """Zhang 2019: `he` times L^(−1/(2m − 2)) in branches of m convolutions, their last one 0, the classifier 0.

    L is the number of blocks. Raises `ValueError` for networks with normalisation, which has no need of it, or
    without shortcuts, through which nothing would pass.
    """
    blocks = _blocks(network, "fixup")
    if next(norms(network), None) is not None:
        raise ValueError(
            "initialiser 'fixup' scales branches that nothing normalises, and batch normalisation would undo it: "
            "choose normaliser 'fixup' or 'none', or another initialiser"
        )
    if any(isinstance(part, Multiplier) and part.scale == 0 for part in network.modules()):
        raise ValueError(
            "initialiser 'fixup' starts from a last convolution of 0, and normaliser 'skipinit' multiplies it by 0: no "
            "gradient would reach either; choose normaliser 'fixup', or initialiser 'he'"
        )
    draw_he(network, fan_out)
    clear_biases(network)
    for block in blocks:
        *inner, last = _convolutions(block)
        nn.init.zeros_(last.weight)
        for convolution in inner:
            with torch.no_grad():
                convolution.weight.mul_(len(blocks) ** (-1 / (2 * len(inner))))
    linear = [layer for _, layer in weighted(network) if isinstance(layer, nn.Linear)][-1]
    nn.init.zeros_(linear.weight)


def zero_gamma(network: nn.Module, _: Tensor | None, __: Mapping[str, float]) -> None:
    """`he`, and the last batch normalisation of each branch puts out 0 (Goyal 2017).

    Raises `ValueError` where branches do not end with one: an activation behind it might let no gradient through.
    """
    blocks = _blocks(network, "zero_gamma")
    draw_he(network, fan_out)
    for block in blocks:
        arranged = [name for name in block.steps if name.startswith(("bn", "act", "conv"))]
        last = block.get_submodule(arranged[-1])
        if not isinstance(last, nn.BatchNorm2d):
            raise ValueError(
                "initialiser 'zero_gamma' needs branches that end with batch normalisation: choose normaliser 'batch' "
                "and arrangement 'original' or 'relu_only_preactivation', or another initialiser"
            )
        nn.init.zeros_(last.weight)


def _blocks(network: nn.Module, key: str) -> list[ResidualBlock]:
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    if not blocks or any(block.downsample is None for block in blocks):
        raise ValueError(
            f"initialiser {key!r} lets branches put out 0, and here is no shortcut beside each: nothing would pass; "
            "choose a residual network with a shortcut, or another initialiser"
        )
    return blocks


def _convolutions(block: ResidualBlock) -> list[nn.Conv2d]:
    return [part for name in block.steps if isinstance(part := block.get_submodule(name), nn.Conv2d)]
