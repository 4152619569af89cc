"""What keeps the scale of a network's activations: batch normalisation, or what takes its place."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from training.resnet.block import Build


@dataclass(frozen=True)
class Normaliser:
    """An entry of the catalogue."""

    build: Build
    ends: Mapping[str, Build] = field(default_factory=dict)
    """Parts at the end of each branch that belong to it, by name."""


NORMALISERS: dict[str, Normaliser] = {
    "batch": Normaliser(nn.BatchNorm2d),
}
