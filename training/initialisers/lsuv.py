"""Layer-sequential unit variance (Mishkin & Matas 2015)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.initialisers.entry import Weighted, weighted
from training.initialisers.orthogonal import orthogonal
from training.initialisers.passing import passing


def lsuv(network: nn.Module, images: Tensor | None, parameters: Mapping[str, float]) -> None:
    """Orthogonal weights, each divided by the standard deviation of what its layer puts out on `images`.

    Layer after layer in the order of the forward pass, in a single one: each layer's output is corrected as its weight
    is before the next one reads it, which needs no iterations. A layer whose output does not vary is left as it is.
    """
    assert images is not None
    orthogonal(network, None, {"gain": parameters["gain"]})

    def divide(layer: Weighted, _: Any, output: Tensor) -> Tensor:
        bias = _shaped(layer.bias, output)
        std = (output - bias).std().item()
        if not 0 < std < float("inf"):
            return output
        layer.weight.div_(std)
        return (output - bias) / std + bias

    with passing(network):
        hooks = [layer.register_forward_hook(divide) for _, layer in weighted(network)]
        try:
            network(images)
        finally:
            for hook in hooks:
                hook.remove()


def _shaped(bias: Tensor | None, output: Tensor) -> Tensor:
    if bias is None:
        return torch.zeros((), device=output.device)
    return bias[:, None, None] if output.ndim == 4 else bias
