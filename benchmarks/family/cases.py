"""Every row of the family, as a small network that learns digits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from training.initialisers.catalogue import INITIALISERS
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.heads import HEADS
from training.resnet.merges import MERGES
from training.resnet.network import NetworkConfig
from training.resnet.normalisers import NORMALISERS

DEFAULT = "resnet8"

# Branches that start from 0 take longer until they do something.
PATIENT: dict[str, Any] = {"epochs": 20}


@dataclass(frozen=True)
class Case:
    """One line of the table: what differs from a ResNet-8 of defaults."""

    kind: str
    name: str
    network: NetworkConfig
    recipe: dict[str, Any]
    seeds: int = 3


def cases() -> Iterator[Case]:
    """In the order of the table."""
    yield from (_case("variant", name, name, seeds=1, arrangement=key) for name, key in VARIANTS.items())
    yield from (_case("arrangement", key, arrangement=key) for key in ARRANGEMENTS)
    yield from (_case("shortcut", key, shortcut=key) for key in MERGES)
    yield _case("shortcut", "exclusive_gating, bias 0", shortcut="exclusive_gating", shortcut_parameters={"bias": 0.0})
    yield from (_case("head", key, head=key) for key in HEADS)
    for key in NORMALISERS:
        yield _case("normaliser", key, recipe=PATIENT | _beginning(key), normaliser=key)
    for key in INITIALISERS:
        # Fixup's initialiser knows no other normaliser.
        if key == "fixup":
            yield _case("initialiser", key, recipe=PATIENT | {"initialiser": key}, normaliser=key)
        else:
            yield _case("initialiser", key, recipe={"initialiser": key})
    yield from (_case("regulariser", name, regularisers=rates) for name, rates in REGULARISERS.items())
    yield from (_case("regulariser", name, recipe=recipe) for name, recipe in RECIPES.items())
    yield from (_case("depth", name, name) for name in DEPTHS)
    for name, (shortcut, parameters) in DEEP_SHORTCUTS.items():
        yield _case("depth", name, "resnet56", shortcut=shortcut, shortcut_parameters=parameters)


# One of each kind of stage, branch, stem and shortcut that changes the shape, the smallest there is, in an arrangement
# that it allows. Of one seed: it is not their learning that differs.
VARIANTS = {
    "resnet8": "original",
    "plain8": "original",
    "se_resnet8": "original",
    "wrn_10_2": "original",
    "resnext29_2x8d": "original",
    "densenet_bc_10_8": "full_preactivation",
    "revnet38": "full_preactivation",
    "irevnet19": "full_preactivation",
    "resnet18": "original",
    "resnet18d": "original",
}

# Rates for so small a network, with squares that fit its maps of 8×8, 4×4 and 2×2.
REGULARISERS: dict[str, dict[str, float]] = {
    "none": {},
    "dropout 0.2": {"dropout": 0.2},
    "annealed_dropout 0.4": {"annealed_dropout": 0.4},
    "standout 0.3": {"standout": 0.3},
    "dropblock 0.1": {"dropblock": 0.1, "dropblock.size": 3},
    "disout 0.1": {"disout": 0.1, "disout.size": 3},
    "dropconnect 0.2": {"dropconnect": 0.2},
    "targeted_dropout 0.5": {"targeted_dropout": 0.5},
    "stochastic_depth 0.2": {"stochastic_depth": 0.2},
}
RECIPES: dict[str, dict[str, Any]] = {
    "mixup 0.2": {"mixup_alpha": 0.2},
    "cutmix 1": {"cutmix_alpha": 1.0},
    "label smoothing 0": {"label_smoothing": 0.0},
    "weight decay 0": {"weight_decay": 0.0},
}
DEPTHS = ("plain20", "plain56", "resnet20", "resnet56")
DEEP_SHORTCUTS: dict[str, tuple[str, dict[str, float]]] = {
    "resnet56, dropout": ("dropout", {}),
    "resnet56, scaled 0 and 1": ("constant_scaling", {"shortcut": 0.0, "branch": 1.0}),
    "resnet56, scaled 0.5 and 1": ("constant_scaling", {"shortcut": 0.5, "branch": 1.0}),
    "resnet56, scaled 0.5 and 0.5": ("constant_scaling", {}),
    "resnet56, exclusive gating, bias 0": ("exclusive_gating", {"bias": 0.0}),
}


def _case(
    kind: str, name: str, network: str = DEFAULT, recipe: dict[str, Any] | None = None, seeds: int = 3, **parts: Any
) -> Case:
    return Case(kind, name, NetworkConfig(network, channels=1, **parts), recipe or {}, seeds)


def _beginning(normaliser: str) -> dict[str, Any]:
    return {"initialiser": "fixup"} if normaliser == "fixup" else {}
