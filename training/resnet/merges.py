"""What becomes of branch and shortcut where they meet (He 2016, section 3.1)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

# Channels of the sum, and parameters by name → a module (branch, shortcut) → the two that are added.
BuildMerge = Callable[[int, Mapping[str, float]], nn.Module]


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


MERGES: dict[str, Merge] = {
    "identity": Merge(),
    "none": Merge(joins=False),
    "conv_1x1": Merge(projects=True),
}


def find_merge(key: str, parameters: Mapping[str, float]) -> tuple[Merge, Mapping[str, float]]:
    """The entry, and all of its parameters; raises `ValueError` for an unknown name."""
    if key not in MERGES:
        raise ValueError(f"unknown shortcut {key!r}; choose from {', '.join(MERGES)}")
    merge = MERGES[key]
    if unknown := set(parameters) - set(merge.parameters):
        known = ", ".join(merge.parameters) or "none"
        raise ValueError(f"shortcut {key!r} has no parameter {sorted(unknown)[0]!r}; it has: {known}")
    return merge, {**merge.parameters, **parameters}
