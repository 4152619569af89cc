"""Weights that keep lengths: rows (or columns, where there are fewer) that are orthogonal, times a gain.

√2 keeps the mean square through a ReLU. Each group of a grouped convolution is orthogonal by itself.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.initialisers.entry import Weighted, weighted
from training.initialisers.variance import clear_biases, neutral_norms


def orthogonal(network: nn.Module, _: Tensor | None, parameters: Mapping[str, float]) -> None:
    """W as O×(I·k²) is semi-orthogonal (Saxe 2014)."""
    neutral_norms(network)
    clear_biases(network)
    for layer in dict(weighted(network)).values():
        for block in _groups(layer):
            nn.init.orthogonal_(block, parameters["gain"])


def delta_orthogonal(network: nn.Module, _: Tensor | None, parameters: Mapping[str, float]) -> None:
    """Zero but in the middle of the kernel, semi-orthogonal O×I there: a convolution keeps lengths too (Xiao 2018)."""
    neutral_norms(network)
    clear_biases(network)
    for layer in dict(weighted(network)).values():
        for block in _groups(layer):
            if block.ndim == 2:
                nn.init.orthogonal_(block, parameters["gain"])
                continue
            middle = torch.empty(block.shape[:2])
            nn.init.orthogonal_(middle, parameters["gain"])
            nn.init.zeros_(block)
            with torch.no_grad():
                block[:, :, block.shape[2] // 2, block.shape[3] // 2] = middle


def _groups(layer: Weighted) -> tuple[Tensor, ...]:
    """Views of the weight, one a group."""
    count = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return tuple(layer.weight.detach().chunk(count))
