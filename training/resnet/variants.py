"""The named members of the residual family."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """Depths and widths of the stages, and the parts that they are made of."""

    stem: str
    branch: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    shortcut: str
    classifier: str
    """Name of the last linear layer, as the family's published checkpoints call it."""


def _cifar(blocks: int) -> Variant:
    """Three stages of `blocks` basic blocks, 6·blocks + 2 layers (He 2015, section 4.2)."""
    return Variant("cifar", "basic", (blocks,) * 3, (16, 32, 64), "padded", "linear")


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
