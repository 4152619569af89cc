"""Which runs a study consists of, and which combinations have no meaning."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from training.activations.catalogue import activation_keys, find_activation
from training.initialisers import INITIALISERS, find_initialiser
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.facts import refusal
from training.resnet.network import assemble
from training.resnet.normalisers import NORMALISERS
from training.resnet.variants import find_variant
from training.studies.case import Case

ALL = "all"


@dataclass(frozen=True)
class Grid:
    """Every combination of these values."""

    networks: tuple[str, ...]
    activations: tuple[str, ...]
    arrangements: tuple[str, ...]
    initialisers: tuple[str, ...]
    normalisers: tuple[str, ...]
    learning_rates: tuple[float, ...]
    epochs: int
    batch_size: int
    seeds: int

    def cases(self) -> Iterator[Case]:
        """Seed by seed: what is broken off has fewer seeds, not fewer rows."""
        axes = product(
            self.networks,
            self.activations,
            self.arrangements,
            self.initialisers,
            self.normalisers,
            self.learning_rates,
        )
        chosen = list(axes)
        for seed in range(self.seeds):
            for values in chosen:
                yield Case(*values, self.epochs, self.batch_size, seed)


CATALOGUES: Mapping[str, Callable[[], list[str]]] = {
    "activations": activation_keys,
    "arrangements": lambda: list(ARRANGEMENTS),
    "initialisers": lambda: list(INITIALISERS),
    "normalisers": lambda: list(NORMALISERS),
}


def choose(axis: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    """`keys`, or every key of the catalogue for `all`; raises `ValueError` for an unknown one or none at all."""
    if not keys:
        raise ValueError(f"--{axis} is empty: name at least one")
    if axis == "networks":
        for key in keys:
            find_variant(key)
    else:
        known = CATALOGUES[axis]()
        if keys == (ALL,):
            return tuple(known)
        if unknown := [key for key in keys if key not in known]:
            raise ValueError(f"unknown {axis} {', '.join(unknown)}; choose from {', '.join(known)}, or {ALL}")
    return tuple(dict.fromkeys(keys))


def choose_rates(rates: tuple[float, ...]) -> tuple[float, ...]:
    """Each once; raises `ValueError` for none."""
    if not rates:
        raise ValueError("--learning-rates is empty: give at least one")
    return tuple(dict.fromkeys(rates))


def meaningless(case: Case) -> str:
    """Why there is no such run; nothing where there is. What an initialiser needs images for, it says when it runs."""
    config = case.network_config(classes=2, channels=1)
    try:
        find_activation(case.activation)
        case.recipe()
        entry = find_initialiser(case.initialiser)
        if reason := refusal(config):
            return reason
        if entry.needs_weights:
            return f"initialiser {case.initialiser!r} needs a file of weights, and a study has none"
        if not entry.needs_images:
            variant = find_variant(case.network)
            shallow = replace(variant, depths=tuple(min(depth, 2) for depth in variant.depths))
            entry.function(assemble(shallow, config), None, entry.parameters)
    except ValueError as error:
        return str(error)
    return ""


def divide(grid: Grid) -> tuple[list[Case], dict[str, list[Case]]]:
    """The runs that there are, and those that have no meaning by their reason; raises `ValueError` if none is left."""
    kept: list[Case] = []
    skipped: dict[str, list[Case]] = {}
    reasons: dict[Case, str] = {}
    for case in grid.cases():
        first = replace(case, seed=0)
        if first not in reasons:
            reasons[first] = meaningless(first)
            if reasons[first]:
                skipped.setdefault(reasons[first], []).append(first)
        if not reasons[first]:
            kept.append(case)
    if not kept:
        raise ValueError(f"no combination has a meaning: {'; '.join(skipped)}")
    return kept, skipped
