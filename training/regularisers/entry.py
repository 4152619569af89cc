"""What a regulariser is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from training.regularisers.rate import Schedule
from training.regularisers.schedules import constant

Place = Literal["inner", "end", "weight"]


@dataclass(frozen=True)
class Regulariser:
    """An entry of the catalogue."""

    place: Place
    """`inner`: before every convolution of a branch but the first; `end`: at the end of the branch; `weight`: on the
    weights of the branch's convolutions."""
    build: Callable[..., nn.Module]
    """(rate, and the parameters by name) → a module tensor → tensor of the same shape, the identity in evaluation."""
    schedule: Schedule = constant
    """Progress of training → share of the rate."""
    depth: Callable[[float], float] = constant
    """Position l/L of the block among all → share of the rate."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """By name, with their defaults."""
    needs_shortcut: bool = False
    """Whether the branch must not be all there is."""
    source: str = ""
