"""The named members of the residual family."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Variant:
    """Depths and widths of the stages, and the parts that they are made of."""

    stem: str
    branch: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    shortcut: str
    """What travels around a branch that changes the shape."""
    classifier: str
    """Name of the last linear layer, as the family's published checkpoints call it."""
    groups: int = 1
    """Of the 3×3 convolution of a bottleneck (ResNeXt: cardinality)."""
    inner_width: float = 1.0
    """Channels of a bottleneck's 3×3 convolution, as a share of the stage's width (times expansion 1)."""
    squeeze: int = 0
    """Squeeze-and-excitation's reduction at the end of each branch; 0: none."""
    stage: Literal["residual", "plain"] = "residual"
    """How its blocks are joined."""
    source: str = "He 2015"


def _cifar(blocks: int, widen: int = 1) -> Variant:
    """Three stages of `blocks` basic blocks, 6·blocks + 2 layers (He 2015, section 4.2)."""
    widths = (16 * widen, 32 * widen, 64 * widen)
    return Variant("cifar", "basic", (blocks,) * 3, widths, "padded", "linear")


def _imagenet(branch: str, depths: tuple[int, int, int, int]) -> Variant:
    """Four stages (He 2015, table 1), with projections where the shape changes."""
    return Variant("imagenet", branch, depths, (64, 128, 256, 512), "projection", "fc")


VARIANTS: dict[str, Variant] = {
    "resnet8": _cifar(1),
    "resnet14": _cifar(2),
    "resnet20": _cifar(3),
    "resnet32": _cifar(5),
    "resnet44": _cifar(7),
    "resnet56": _cifar(9),
    "resnet110": _cifar(18),
    "resnet18": _imagenet("basic", (2, 2, 2, 2)),
    "resnet34": _imagenet("basic", (3, 4, 6, 3)),
    "resnet50": _imagenet("bottleneck", (3, 4, 6, 3)),
    "resnet101": _imagenet("bottleneck", (3, 4, 23, 3)),
    "resnet152": _imagenet("bottleneck", (3, 8, 36, 3)),
}
