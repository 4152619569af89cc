"""Greedy unsupervised pre-training, layer by layer (Bengio 2007; convolutional: Masci 2011)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.initialisers.entry import convolutions
from training.initialisers.passing import passing
from training.initialisers.variance import draw_he, fan_in


class _ReachedError(Exception):
    """The pass has come to the layer that is trained."""


def layerwise_autoencoder(network: nn.Module, images: Tensor | None, parameters: Mapping[str, float]) -> None:
    """From the first convolution to the last, each learns to give back what it reads: x ≈ Wᵀ * tanh(W * x).

    It reads what the layers before make of `images` once they are trained. `steps` of Adam at `learning_rate` on the
    mean square, with tied weights; starts from `he` with n_in and keeps its scale: what is learned is the pattern.
    Historical: since `he` and batch normalisation it is not needed.
    """
    assert images is not None
    draw_he(network, fan_in)
    for _, convolution in convolutions(network):
        read = _read_by(convolution, network, images)
        if read is not None:
            pretrain(convolution, read, int(parameters["steps"]), parameters["learning_rate"])


def pretrain(convolution: nn.Conv2d, read: Tensor, steps: int, learning_rate: float) -> None:
    """Train the weight of one layer on what it reads, N×C×H×W."""
    with torch.enable_grad():
        weight = nn.Parameter(convolution.weight.detach().clone())
        optimiser = torch.optim.Adam([weight], learning_rate)
        for _ in range(steps):
            optimiser.zero_grad()
            reconstruction_error(convolution, weight, read).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        convolution.weight.copy_(weight * (convolution.weight.norm() / weight.norm()))


def reconstruction_error(convolution: nn.Conv2d, weight: Tensor, read: Tensor) -> Tensor:
    """Mean of (x − Wᵀ * tanh(W * x))²."""
    stride, padding, groups = convolution.stride, convolution.padding, convolution.groups
    assert not isinstance(padding, str)
    code = torch.tanh(F.conv2d(read, weight, None, stride, padding, groups=groups))
    # Of the sizes that give this code, the one that was read.
    left = [
        size - ((coded - 1) * step - 2 * pad + kernel)
        for size, coded, step, pad, kernel in zip(
            read.shape[2:], code.shape[2:], stride, padding, weight.shape[2:], strict=True
        )
    ]
    back = F.conv_transpose2d(code, weight, None, stride, padding, output_padding=left, groups=groups)
    return F.mse_loss(back, read)


def _read_by(convolution: nn.Conv2d, network: nn.Module, images: Tensor) -> Tensor | None:
    """What the convolution reads when `images` pass; None where they do not come to it."""
    read: list[Tensor] = []

    def stop(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        read.append(inputs[0].clone())
        raise _ReachedError

    with passing(network):
        hook = convolution.register_forward_pre_hook(stop)
        try:
            network(images)
        except _ReachedError:
            pass
        finally:
            hook.remove()
    return read[0] if read else None
