"""What becomes of branch and shortcut where they meet (He 2016, section 3.1). Shapes: all N×C×H×W.

The shortcut is what arrives: x where the shape stays, what the projection or the padding made of it where it changes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

# Channels of the sum, and parameters by name → a module (branch, shortcut) → the two that are added.
BuildMerge = Callable[[int, Mapping[str, float]], nn.Module]
Pair = tuple[Tensor, Tensor]


class ConstantScaling(nn.Module):
    """λ_b·F + λ_s·x; the sums of a deep network with λ_s < 1 forget where they came from."""

    def __init__(self, shortcut: float, branch: float) -> None:
        super().__init__()
        self.shortcut, self.branch = shortcut, branch

    def forward(self, branch: Tensor, shortcut: Tensor) -> Pair:
        return self.branch * branch, self.shortcut * shortcut


class Gating(nn.Module):
    """g = σ(W·x + b), a 1×1 convolution of the shortcut x; g·F + (1 − g)·x if exclusive, else F + (1 − g)·x.

    The bias b starts at `bias`, W as the initialiser says.
    """

    def __init__(self, channels: int, bias: float, exclusive: bool) -> None:
        super().__init__()
        self.exclusive = exclusive
        self.gate = nn.Conv2d(channels, channels, 1)
        assert self.gate.bias is not None
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Pair:
        gate = torch.sigmoid(self.gate(shortcut))
        return (gate * branch if self.exclusive else branch), (1 - gate) * shortcut


class ShortcutDropout(nn.Module):
    """F + dropout(x): in training numbers of x are 0 with probability `rate`, the others x / (1 − rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(rate)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Pair:
        return branch, self.dropout(shortcut)


@dataclass(frozen=True)
class Merge:
    """An entry of the catalogue."""

    build: BuildMerge | None = None
    """None: as they are."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """By name, with their defaults."""
    joins: bool = True
    """Whether there is a shortcut at all."""
    projects: bool = False
    """Whether every shortcut is a 1×1 convolution, not only those that change the shape."""


def _constant_scaling(_: int, parameters: Mapping[str, float]) -> nn.Module:
    return ConstantScaling(parameters["shortcut"], parameters["branch"])


def _exclusive_gating(channels: int, parameters: Mapping[str, float]) -> nn.Module:
    return Gating(channels, parameters["bias"], exclusive=True)


def _shortcut_only_gating(channels: int, parameters: Mapping[str, float]) -> nn.Module:
    return Gating(channels, parameters["bias"], exclusive=False)


def _dropout(_: int, parameters: Mapping[str, float]) -> nn.Module:
    return ShortcutDropout(parameters["rate"])


MERGES: dict[str, Merge] = {
    "identity": Merge(),
    "none": Merge(joins=False),
    "conv_1x1": Merge(projects=True),
    "constant_scaling": Merge(_constant_scaling, {"shortcut": 0.5, "branch": 0.5}),
    "exclusive_gating": Merge(_exclusive_gating, {"bias": -6.0}),
    "shortcut_only_gating": Merge(_shortcut_only_gating, {"bias": -6.0}),
    "dropout": Merge(_dropout, {"rate": 0.5}),
}


def find_merge(key: str, parameters: Mapping[str, float]) -> tuple[Merge, Mapping[str, float]]:
    """The entry, and all of its parameters; raises `ValueError` for an unknown name or an impossible value."""
    if key not in MERGES:
        raise ValueError(f"unknown shortcut {key!r}; choose from {', '.join(MERGES)}")
    merge = MERGES[key]
    if unknown := set(parameters) - set(merge.parameters):
        known = ", ".join(merge.parameters) or "none"
        raise ValueError(f"shortcut {key!r} has no parameter {sorted(unknown)[0]!r}; it has: {known}")
    for name, value in parameters.items():
        if not math.isfinite(value):
            raise ValueError(f"{name}={value} of shortcut {key!r} is not allowed: use a finite number")
        if name == "rate" and not 0 <= value < 1:
            raise ValueError(f"rate={value} of shortcut {key!r} is not allowed: use 0 to below 1")
    return merge, {**merge.parameters, **parameters}
