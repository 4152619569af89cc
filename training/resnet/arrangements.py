"""Where normalisation, activation and addition stand in a residual block (He 2016, Identity Mappings).

Every arrangement takes the same parts: the branch's convolutions, the shortcut, and the activation's catalogue entry.
Parts are named as published checkpoints name them: conv1, bn1, conv2, …, downsample. Each activation site has its own
module (act1, act2, …), so that it has its own name in the graph and in the statistics.
In every sum the branch is the first operand and the shortcut the second: the export relies on it.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from training.activations.entry import Activation


class ResidualBlock(nn.Module):
    """Base of the arrangements: holds the parts, gives the branch in `forward`."""

    preactivated: ClassVar[bool]
    """True if the block takes and leaves a bare sum: the stem ends bare, and the head starts with BN and activation."""

    def __init__(
        self, channels: int, convolutions: Sequence[nn.Conv2d], shortcut: nn.Module, activation: Activation
    ) -> None:
        """`channels` is the number that enters the block."""
        super().__init__()
        self.length = len(convolutions)
        widths = [channels, *(convolution.out_channels for convolution in convolutions)]
        # Normalisation and activation come before each convolution, or after.
        normalised = widths[:-1] if self.preactivated else widths[1:]
        for index, (convolution, width) in enumerate(zip(convolutions, normalised, strict=True), start=1):
            self.add_module(f"conv{index}", convolution)
            self.add_module(f"bn{index}", nn.BatchNorm2d(width))
            self.add_module(f"act{index}", activation.build(width))
        self.downsample = shortcut

    def part(self, kind: str, index: int) -> nn.Module:
        """The block's `conv`, `bn` or `act` number `index`, from 1."""
        return self.get_submodule(f"{kind}{index}")


class OriginalBlock(ResidualBlock):
    """y = act(BN(conv(… act(BN(conv(x))))) + shortcut(x)). He 2015."""

    preactivated = False

    def forward(self, x: Tensor) -> Tensor:
        branch = x
        for index in range(1, self.length + 1):
            branch = self.part("bn", index)(self.part("conv", index)(branch))
            if index < self.length:
                branch = self.part("act", index)(branch)
        return self.part("act", self.length)(branch + self.downsample(x))  # type: ignore[no-any-return]


class FullPreactivationBlock(ResidualBlock):
    """y = conv(act(BN(… conv(act(BN(x)))))) + shortcut. He 2016.

    A shortcut that changes the shape starts from the block's first activation, as in the authors' code.
    """

    preactivated = True

    def forward(self, x: Tensor) -> Tensor:
        branch = self.part("act", 1)(self.part("bn", 1)(x))
        shortcut = x if isinstance(self.downsample, nn.Identity) else self.downsample(branch)
        branch = self.part("conv", 1)(branch)
        for index in range(2, self.length + 1):
            branch = self.part("conv", index)(self.part("act", index)(self.part("bn", index)(branch)))
        return branch + shortcut  # type: ignore[no-any-return]


ARRANGEMENTS: dict[str, type[ResidualBlock]] = {
    "original": OriginalBlock,
    "full_preactivation": FullPreactivationBlock,
}
