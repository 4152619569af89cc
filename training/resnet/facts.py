"""What there is to know of a network, for the command line and the documentation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from training.regularisers.catalogue import REGULARISERS
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.counts import count_network
from training.resnet.heads import HEADS
from training.resnet.merges import MERGES
from training.resnet.network import NetworkConfig, assemble
from training.resnet.normalisers import NORMALISERS
from training.resnet.variants import SERIES, find_variant

OPTIONS: Mapping[str, Mapping[str, object]] = {
    "arrangement": ARRANGEMENTS,
    "shortcut": MERGES,
    "normaliser": NORMALISERS,
    "head": HEADS,
}
"""The field of `NetworkConfig` → the catalogue of its values."""

RATE = 0.1
"""At which regularisers are tried."""


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """A network as it was published: for images of three channels, in an arrangement that it takes."""

    key: str
    parameters: int
    multiply_adds: int
    """For one image."""
    layers: int
    """Convolutions and linear layers, without those of shortcuts and gates."""
    image: int
    """Height and width."""
    smallest: int
    """Height and width of the smallest image."""
    classes: int
    arrangement: str
    stage: str
    stem: str
    branch: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    groups: int
    squeeze: int
    shape_shortcut: str
    """What travels around a branch that changes the shape."""
    source: str


def gather(key: str) -> NetworkFacts:
    """All of one network but what combines with it; raises `ValueError` for an unknown name."""
    variant, base = find_variant(key), base_config(key)
    counts = count_network(base)
    return NetworkFacts(
        key=key,
        parameters=counts.parameters,
        multiply_adds=counts.multiply_adds,
        layers=counts.layers,
        image=variant.image,
        smallest=variant.smallest,
        classes=variant.classes,
        arrangement=base.arrangement,
        stage=variant.stage,
        stem=variant.stem,
        branch=variant.branch,
        depths=variant.depths,
        widths=variant.widths,
        groups=variant.groups,
        squeeze=variant.squeeze,
        shape_shortcut=variant.shortcut,
        source=variant.source,
    )


def base_config(key: str) -> NetworkConfig:
    """The network with its published number of classes, in the first arrangement that it takes."""
    classes = find_variant(key).classes
    configs = [NetworkConfig(key, arrangement=arrangement, classes=classes) for arrangement in ARRANGEMENTS]
    return next(config for config in configs if not refusal(config))


def combinations(key: str) -> dict[str, dict[str, str]]:
    """Option → its values → why the network does not take it, and nothing where it does; one changed at a time."""
    base = base_config(key)
    found: dict[str, dict[str, str]] = {}
    for option, catalogue in OPTIONS.items():
        changes: dict[str, dict[str, Any]] = {value: {option: value} for value in catalogue}
        found[option] = {value: refusal(replace(base, **change)) for value, change in changes.items()}
    found["regulariser"] = {name: refusal(replace(base, regularisers={name: RATE})) for name in REGULARISERS}
    return found


def refusal(config: NetworkConfig) -> str:
    """Why these parts do not go together, as `build_network` says it; nothing if they do."""
    variant = find_variant(config.network)
    # What goes together does so at every depth: a block of each kind is enough.
    shallow = replace(variant, depths=tuple(min(depth, 2) for depth in variant.depths))
    try:
        with torch.device("meta"):
            assemble(shallow, config)
    except ValueError as error:
        return str(error)
    return ""


def summary(facts: NetworkFacts) -> dict[str, str]:
    """One row of the overview."""
    return {
        "network": facts.key,
        "parameters": magnitude(facts.parameters),
        "multiply-adds": magnitude(facts.multiply_adds),
        "layers": str(facts.layers),
        "image": f"{facts.image}×{facts.image}",
        "classes": str(facts.classes),
        "source": facts.source,
    }


def details(facts: NetworkFacts) -> dict[str, str]:
    """What one is made of, by subject."""
    stages = ", ".join(f"{depth} of width {width}" for depth, width in zip(facts.depths, facts.widths, strict=True))
    rows = {
        "parameters": f"{facts.parameters:,} with {facts.classes} classes, arrangement {facts.arrangement}",
        "multiply-adds": f"{facts.multiply_adds:,} for an image of {facts.image}×{facts.image}",
        "layers": f"{facts.layers}, without those of shortcuts and gates",
        "smallest image": f"{facts.smallest}×{facts.smallest}",
        "stem": facts.stem,
        "stages": f"{facts.stage}: {stages}",
        "branch": facts.branch + (f", {facts.groups} groups" if facts.groups > 1 else ""),
        "squeeze": f"to 1/{facts.squeeze} of the channels" if facts.squeeze else "",
        "where the shape changes": facts.shape_shortcut if facts.stage == "residual" else "",
        "source": facts.source,
    }
    return {subject: text for subject, text in rows.items() if text}


def magnitude(count: int) -> str:
    """Three digits and a unit: 0.27 M, 25.6 M, 4.09 G."""
    unit, size = ("G", 1e9) if count >= 1e9 else ("M", 1e6)
    value = count / size
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def series() -> list[str]:
    """The patterns of names that have no entry of their own."""
    return list(SERIES)
