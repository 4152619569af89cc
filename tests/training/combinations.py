"""Networks of every combination of keys of the catalogues, small."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import combinations, product
from typing import Any, Literal, get_args, get_type_hints

from training.regularisers.catalogue import REGULARISERS
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.branches import BRANCHES
from training.resnet.heads import HEADS
from training.resnet.merges import MERGES
from training.resnet.network import NetworkConfig, ResNet, assemble
from training.resnet.normalisers import NORMALISERS
from training.resnet.shortcuts import SHORTCUTS
from training.resnet.stems import STEMS
from training.resnet.variants import Variant

Stage = Literal["residual", "plain", "dense", "reversible"]
STAGES: tuple[Stage, ...] = get_args(get_type_hints(Variant)["stage"])
CLASSES = 6
RATE = 0.25


@dataclass(frozen=True)
class Combination:
    """A key of each catalogue; at first those with which all others go together."""

    stem: str = "cifar"
    branch: str = "basic"
    shape: str = "padded"
    """Shortcut where the shape changes."""
    stage: Stage = "residual"
    squeeze: int = 0
    groups: int = 1
    activation: str = "prelu"
    arrangement: str = "full_preactivation"
    shortcut: str = "identity"
    normaliser: str = "batch"
    head: str = "linear"
    regulariser: str = ""

    def __str__(self) -> str:
        return "-".join(str(getattr(self, field.name)) for field in fields(self) if self.differs(field.name)) or "usual"

    def differs(self, axis: str) -> bool:
        return bool(getattr(self, axis) != getattr(Combination, axis))

    @property
    def variant(self) -> Variant:
        """Of two blocks in the second stage one keeps its shape; positions become channels where widths grow by 4."""
        lifted = self.shape == "space_to_depth"
        streams, expansion = 2 if self.stage == "reversible" else 1, BRANCHES[self.branch].expansion if lifted else 1
        return Variant(
            stem=self.stem,
            branch=self.branch,
            depths=(1, 2),
            widths=(4, 16),
            shortcut=self.shape,
            classifier="fc",
            groups=self.groups,
            inner_width=1.5 if self.groups > 1 else 1.0,
            squeeze=self.squeeze,
            stage=self.stage,
            entry=4 * streams * expansion,
        )

    def config(self, parameters: Mapping[str, float] | None = None) -> NetworkConfig:
        """`parameters` are those of the activation."""
        return NetworkConfig(
            "network",
            self.activation,
            self.arrangement,
            CLASSES,
            activation_parameters=parameters or {},
            shortcut=self.shortcut,
            normaliser=self.normaliser,
            head=self.head,
            regularisers={self.regulariser: RATE} if self.regulariser else {},
        )

    @property
    def size(self) -> tuple[int, int]:
        """Of images: small and, where the network allows it, odd."""
        if self.shape == "space_to_depth":
            return (16, 24) if self.stem in ("imagenet", "deep") else (4, 8)
        return (17, 22) if self.stem in ("imagenet", "deep") else (5, 8)

    def build(self, parameters: Mapping[str, float] | None = None) -> ResNet:
        return assemble(self.variant, self.config(parameters))


# Kinds of activations by what they do to the layers around them: as many channels, more, fewer by a maximum or a gate.
KINDS: dict[str, dict[str, float]] = {"prelu": {}, "crelu": {}, "maxout": {"k": 3}, "glu": {}}

AXES: dict[str, tuple[Any, ...]] = {
    "stem": tuple(STEMS),
    "branch": tuple(BRANCHES),
    "shape": tuple(SHORTCUTS),
    "stage": STAGES,
    "squeeze": (0, 2),
    "groups": (1, 2),
    "activation": tuple(KINDS),
    "arrangement": tuple(ARRANGEMENTS),
    "shortcut": tuple(MERGES),
    "normaliser": tuple(NORMALISERS),
    "head": tuple(HEADS),
    "regulariser": ("", *REGULARISERS),
}


def pairs(one: str, other: str) -> list[Combination]:
    """Every key of one catalogue with every key of another."""
    return [Combination(**{one: a, other: b}) for a, b in product(AXES[one], AXES[other])]


PAIRS = list(combinations(AXES, 2))
