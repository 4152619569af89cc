"""The named members of the residual family."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Variant:
    """Depths and widths of the stages, and the parts that they are made of."""

    stem: str
    branch: str
    depths: tuple[int, ...]
    """Blocks of each stage; layers of a dense one."""
    widths: tuple[int, ...]
    """Of each stage; of a dense one what each layer adds."""
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
    stage: Literal["residual", "plain", "dense", "reversible"] = "residual"
    """How its blocks are joined."""
    entry: int = 0
    """Channels that leave the stem; 0: the width of the first stage."""
    image: int = 32
    """Height and width of the images that it was published for."""
    classes: int = 10
    """Number of classes that it was published for."""
    source: str = "He 2015"

    @property
    def entering(self) -> int:
        """Nominal width of what enters the first stage."""
        return self.entry or self.widths[0]

    @property
    def streams(self) -> int:
        """Of the stages' width, which blocks change in turn."""
        return 2 if self.stage == "reversible" else 1

    @property
    def smallest(self) -> int:
        """Height and width of the smallest image that leaves a pixel at the end."""
        # Padded convolutions halve 1 to 1; the average of a transition needs two by two.
        return 2 ** (len(self.depths) - 1) if self.stage == "dense" else 1


def cifar(depth: int, branch: str = "basic") -> Variant:
    """Three stages of n blocks: 6n + 2 layers (He 2015, section 4.2), or 9n + 2 of bottlenecks (He 2016)."""
    if branch == "basic":
        blocks = _blocks(depth, 6, 2)
        return Variant("cifar", branch, (blocks,) * 3, (16, 32, 64), "padded", "linear")
    blocks = _blocks(depth, 9, 2)
    return Variant("cifar", branch, (blocks,) * 3, (16, 32, 64), "projection", "linear", source="He 2016")


IMAGENET_BLOCKS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


def imagenet(depth: int) -> Variant:
    """Four stages (He 2015, table 1), with projections where the shape changes; bottlenecks shrink in their 3×3."""
    branch, depths = IMAGENET_BLOCKS[depth]
    widths = (64, 128, 256, 512)
    return Variant("imagenet", branch, depths, widths, "projection", "fc", image=224, classes=1000)


def plain(variant: Variant) -> Variant:
    """The same without shortcuts."""
    return replace(variant, stage="plain")


def squeezed(variant: Variant) -> Variant:
    """The same with squeeze-and-excitation at the end of each branch."""
    return replace(variant, squeeze=16, source="Hu 2018")


def grouped(variant: Variant, groups: int, group_width: int) -> Variant:
    """The 3×3 convolution of each bottleneck in groups, each of `group_width` channels in the first stage."""
    share = groups * group_width / variant.widths[0]
    return replace(variant, groups=groups, inner_width=share, source="Xie 2017")


def widened(variant: Variant, factor: int) -> Variant:
    """The 3×3 convolution of each bottleneck `factor` times as wide."""
    return replace(variant, inner_width=float(factor), source="Zagoruyko 2016")


def tweaked(variant: Variant, **parts: str) -> Variant:
    """With another stem, branch or shortcut."""
    return replace(variant, source="He 2018 (bag of tricks)", **parts)  # type: ignore[arg-type]


def wide(depth: int, factor: int) -> Variant:
    """WRN: 6n + 4 layers, of which three are shortcuts, `factor` times as wide behind a stem of 16."""
    blocks = (_blocks(depth, 6, 4),) * 3
    widths = (16 * factor, 32 * factor, 64 * factor)
    return Variant("cifar", "basic", blocks, widths, "projection", "linear", entry=16, source="Zagoruyko 2016")


def resnext29(groups: int, group_width: int) -> Variant:
    """Three stages of three bottlenecks on small images."""
    stages = Variant("cifar", "bottleneck", (3, 3, 3), (64, 128, 256), "projection", "linear")
    return grouped(stages, groups, group_width)


def dense(depth: int, growth: int) -> Variant:
    """DenseNet-BC: 6n + 4 layers in three dense stages of n bottlenecks, each of which adds `growth` channels."""
    layers = (_blocks(depth, 6, 4),) * 3
    widths = (growth,) * 3
    return Variant(
        "cifar", "dense", layers, widths, "none", "linear", stage="dense", entry=2 * growth, source="Huang 2017"
    )


def revnet(depth: int, widths: tuple[int, int, int]) -> Variant:
    """6n + 2 layers: n/2 units of two branches in each of three stages, on two streams of these widths."""
    blocks = (_blocks(depth, 6, 2),) * 3
    entry = 2 * widths[0]
    return Variant(
        "cifar", "basic", blocks, widths, "padded", "linear", stage="reversible", entry=entry, source="Gomez 2017"
    )


def irevnet(depth: int) -> Variant:
    """9n + 1 layers, no convolution but in n blocks of each stage; positions become channels where it shrinks."""
    blocks, widths = (_blocks(depth, 9, 1),) * 3, (16, 64, 256)
    shapes = "space_to_depth"
    return Variant(
        "padding", "quartered", blocks, widths, shapes, "linear", stage="reversible", entry=32, source="Jacobsen 2018"
    )


def _blocks(depth: int, each: int, others: int) -> int:
    """Of a stage, where three stages and `others` layers are `depth` layers and `each` is three blocks' layers."""
    blocks, left = divmod(depth - others, each)
    if left or blocks < 1:
        raise ValueError(f"{depth} layers are not {each}n + {others}")
    return blocks


VARIANTS: dict[str, Variant] = {
    "resnet8": cifar(8),
    "resnet14": cifar(14),
    "resnet20": cifar(20),
    "resnet32": cifar(32),
    "resnet44": cifar(44),
    "resnet56": cifar(56),
    "resnet110": cifar(110),
    "resnet164": cifar(164, "bottleneck"),
    "resnet1001": cifar(1001, "bottleneck"),
    "resnet1202": cifar(1202),
    "resnet18": imagenet(18),
    "resnet34": imagenet(34),
    "resnet50": imagenet(50),
    "resnet101": imagenet(101),
    "resnet152": imagenet(152),
    "plain20": plain(cifar(20)),
    "plain32": plain(cifar(32)),
    "plain44": plain(cifar(44)),
    "plain56": plain(cifar(56)),
    "plain110": plain(cifar(110)),
    "plain18": plain(imagenet(18)),
    "plain34": plain(imagenet(34)),
    "wrn_16_8": wide(16, 8),
    "wrn_28_10": wide(28, 10),
    "wrn_40_4": wide(40, 4),
    "wide_resnet50_2": widened(imagenet(50), 2),
    "wide_resnet101_2": widened(imagenet(101), 2),
    "resnext29_8x64d": resnext29(8, 64),
    "resnext50_32x4d": grouped(imagenet(50), 32, 4),
    "resnext101_32x8d": grouped(imagenet(101), 32, 8),
    "se_resnet20": squeezed(cifar(20)),
    "se_resnet32": squeezed(cifar(32)),
    "se_resnet56": squeezed(cifar(56)),
    "se_resnet110": squeezed(cifar(110)),
    "se_resnet18": squeezed(imagenet(18)),
    "se_resnet34": squeezed(imagenet(34)),
    "se_resnet50": squeezed(imagenet(50)),
    "se_resnet101": squeezed(imagenet(101)),
    "se_resnet152": squeezed(imagenet(152)),
    # The form of the paper: the first 1×1 convolution shrinks.
    "resnet50a": replace(imagenet(50), branch="bottleneck_a"),
    # What is called resnet50 everywhere since: the 3×3 convolution shrinks.
    "resnet50b": tweaked(imagenet(50)),
    "resnet50c": tweaked(imagenet(50), stem="deep"),
    "resnet18d": tweaked(imagenet(18), stem="deep", shortcut="average"),
    "resnet34d": tweaked(imagenet(34), stem="deep", shortcut="average"),
    "resnet50d": tweaked(imagenet(50), stem="deep", shortcut="average"),
    "resnet101d": tweaked(imagenet(101), stem="deep", shortcut="average"),
    "resnet152d": tweaked(imagenet(152), stem="deep", shortcut="average"),
    "revnet38": revnet(38, (16, 32, 56)),
    "revnet110": revnet(110, (16, 32, 64)),
    "irevnet19": irevnet(19),
    "irevnet109": irevnet(109),
    "densenet_bc_40_12": dense(40, 12),
    "densenet_bc_100_12": dense(100, 12),
}

# Numbers in a name → the variant, for what has no entry of its own.
SERIES: dict[str, Callable[..., Variant]] = {
    "resnet{6n+2}": cifar,
    "plain{6n+2}": lambda depth: plain(cifar(depth)),
    "se_resnet{6n+2}": lambda depth: squeezed(cifar(depth)),
    "wrn_{6n+4}_{width}": wide,
    "resnext29_{groups}x{width}d": resnext29,
    "densenet_bc_{6n+4}_{growth}": dense,
}


def find_variant(name: str) -> Variant:
    """The entry of this name, or the member of a series; raises `ValueError` for any other name."""
    if name in VARIANTS:
        return VARIANTS[name]
    reason = ""
    for pattern, build in SERIES.items():
        # Up to four digits: no network has more layers.
        if numbers := re.fullmatch(re.sub(r"\{.*?\}", "([1-9][0-9]{0,3})", pattern), name):
            try:
                return build(*map(int, numbers.groups()))
            except ValueError as error:
                reason = f" ({error})"
    raise ValueError(f"unknown network {name!r}{reason}; choose from {', '.join([*VARIANTS, *SERIES])}")
