"""One residual block: convolutions in an arrangement, and what becomes of branch and shortcut where they meet.

Parts are named as published checkpoints name them: conv1, bn1, conv2, …, downsample. Each activation site has its own
module (act1, act2, …), so that it has its own name in the graph and in the statistics.
In every sum the branch is the first operand and the shortcut the second: the export relies on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from training.activations.entry import Activation, ActivationModule
from training.resnet.arrangements import Arrangement

# Channels of what a part takes → the part.
Build = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Junction:
    """How the shortcut comes to the branch."""

    shortcut: nn.Module
    """`downsample`: x, or what the first convolution reads → what travels around the branch."""
    merge: nn.Module | None = None
    """(branch, shortcut) → the two that are added; None: as they are."""


@dataclass(frozen=True)
class Extras:
    """Parts of a branch that belong to no arrangement."""

    normalise: Build = nn.BatchNorm2d
    inner: Build | None = None
    """Stands before every convolution but the first."""
    before: Build | None = None
    """Stands directly before every convolution, as `bias1`, …"""
    behind: Mapping[str, Build] = field(default_factory=dict)
    """Stand directly behind the last convolution, by name."""
    ends: Mapping[str, Build] = field(default_factory=dict)
    """Stand at the end of the branch, by name."""


class ResidualBlock(nn.Module):
    """y = after_sum(branch(x) + shortcut(x)); without a junction y = after_sum(branch(x)).

    A shortcut that changes the shape starts from what the first convolution reads, as in the authors' code: the first
    activation of a pre-activated block, x of another; one that keeps it starts from x.
    """

    downsample: nn.Module | None
    merge: nn.Module | None

    def __init__(
        self,
        channels: int,
        convolutions: Sequence[nn.Conv2d],
        junction: Junction | None,
        arrangement: Arrangement,
        activation: Activation,
        extras: Extras,
    ) -> None:
        """`channels` is the number that enters the block."""
        super().__init__()
        self.steps: list[str] = []
        self.closing: list[str] = []
        width = channels
        for index, convolution in enumerate(convolutions, start=1):
            last = index == len(convolutions)
            width = self._add(self.steps, arrangement.before, index, width, activation, extras)
            if index > 1 and extras.inner is not None:
                self._append(self.steps, f"drop{index}", extras.inner(width))
            if extras.before is not None:
                self._append(self.steps, f"bias{index}", extras.before(width))
            self._append(self.steps, f"conv{index}", convolution)
            for name, build in extras.behind.items() if last else ():
                self._append(self.steps, name, build(convolution.out_channels))
            after = arrangement.after_last if last else arrangement.after
            width = self._add(self.steps, after, index, convolution.out_channels, activation, extras)
        for name, build in extras.ends.items():
            self._append(self.steps, name, build(width))
        self.downsample = junction.shortcut if junction else None
        self.merge = junction.merge if junction else None
        self._add(self.closing, arrangement.after_sum, len(convolutions), width, activation, extras)

    def branch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The branch of x, and what a shortcut that changes the shape starts from."""
        branch = start = x
        for name in self.steps:
            if name == "conv1":
                start = branch
            branch = self.get_submodule(name)(branch)
        return branch, start

    def forward(self, x: Tensor, around: Tensor | None = None) -> Tensor:
        """`around`: what the shortcut starts from where it does not come from x (reversible stages)."""
        branch, start = self.branch(x)
        if self.downsample is not None:
            if around is None:
                around = x if isinstance(self.downsample, nn.Identity) else start
            shortcut = self.downsample(around)
            if self.merge is not None:
                branch, shortcut = self.merge(branch, shortcut)
            branch = branch + shortcut
        for name in self.closing:
            branch = self.get_submodule(name)(branch)
        return branch

    def _add(
        self,
        steps: list[str],
        kinds: Sequence[str],
        index: int,
        width: int,
        activation: Activation,
        extras: Extras,
    ) -> int:
        """Add the parts of an arrangement around convolution `index`; returns the channels that leave them."""
        for kind in kinds:
            part = activation.build(width) if kind == "act" else extras.normalise(width)
            self._append(steps, f"{kind}{index}", part)
            width = part.output_channels() if isinstance(part, ActivationModule) else width
        return width

    def _append(self, steps: list[str], name: str, part: nn.Module) -> None:
        self.add_module(name, part)
        steps.append(name)
