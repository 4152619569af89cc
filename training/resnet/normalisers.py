"""What keeps the scale of a network's activations: batch normalisation, or what takes its place."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from training.activations.entry import ActivationModule
from training.resnet.block import Build


class ScalarBias(nn.Module):
    """y = x + b with one number b for the whole tensor, 0 at first (Zhang 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Multiplier(nn.Module):
    """y = s·x with one number s for the whole tensor."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def _identity(_: int) -> nn.Module:
    return nn.Identity()


def _scalar_bias(_: int) -> nn.Module:
    return ScalarBias()


def _one(_: int) -> nn.Module:
    return Multiplier(1.0)


def _zero(_: int) -> nn.Module:
    return Multiplier(0.0)


@dataclass(frozen=True)
class Normaliser:
    """An entry of the catalogue."""

    build: Build
    """Stands wherever the arrangement has a normalisation."""
    projected: Build
    """Behind the convolution of a shortcut."""
    before: Build | None = None
    """Directly before every convolution of a branch, and before the head."""
    behind: Mapping[str, Build] = field(default_factory=dict)
    """Directly behind the last convolution of each branch, by name."""
    ends: Mapping[str, Build] = field(default_factory=dict)
    """Parts at the end of each branch that belong to it, by name."""
    biased: bool = False
    """Whether convolutions have biases, 0 at first: where a normalisation follows it brings its own."""
    centres: bool = True
    """Whether anything stands where the arrangement has a normalisation."""
    silent: bool = False
    """Whether branches put out 0 before the first step."""
    learning_share: float = 1.0
    """Of the learning rate, with which its scalars learn."""


NORMALISERS: dict[str, Normaliser] = {
    # Ioffe & Szegedy 2015.
    "batch": Normaliser(nn.BatchNorm2d, nn.BatchNorm2d),
    # Nothing at all; biases in its stead, as networks had them before there was normalisation.
    "none": Normaliser(_identity, _identity, biased=True, centres=False),
    # Zhang 2019, Fixup: a scalar bias before each convolution, activation and linear layer, a scalar multiplier in each
    # branch, all of which learn at a tenth of the learning rate. With the initialiser of the same name branches put out
    # 0 at first.
    "fixup": Normaliser(
        _scalar_bias, _identity, before=_scalar_bias, behind={"scale": _one}, silent=True, learning_share=0.1
    ),
    # De & Smith 2020, SkipInit: y = shortcut + α·branch with a learned α, 0 at first.
    "skipinit": Normaliser(_identity, _identity, ends={"scale": _zero}, biased=True, centres=False, silent=True),
}


def check_normaliser(key: str, arrangement: str, joins: bool) -> None:
    """Raise `ValueError` where a normaliser has no meaning in an arrangement, or without shortcuts."""
    normaliser = NORMALISERS[key]
    if not normaliser.centres and arrangement == "bn_after_addition":
        raise ValueError(
            f"arrangement 'bn_after_addition' says where a normalisation stands, and normaliser {key!r} has none: "
            "choose arrangement 'original', which is the same network then"
        )
    if normaliser.silent and not joins:
        raise ValueError(
            f"normaliser {key!r} starts from branches that put out 0, and with shortcut 'none' nothing else would "
            "reach the head: choose a shortcut, or normaliser 'batch' or 'none'"
        )


def give_biases(network: nn.Module) -> None:
    """Give every convolution that has no bias one, 0 at first; those inside of activations stay as they are."""
    activations = [module for module in network.modules() if isinstance(module, ActivationModule)]
    own = {part for activation in activations for part in activation.modules()}
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None and module not in own:
            module.bias = nn.Parameter(torch.zeros(module.out_channels, device=module.weight.device))
