"""The regularisers that a network is to have, and their modules for each of its blocks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from training.regularisers.catalogue import REGULARISERS
from training.regularisers.convolution import RegularisedConvolution
from training.regularisers.entry import Place, Regulariser
from training.regularisers.rate import Rate


@dataclass(frozen=True)
class Chosen:
    """One of them, with its rate and all of its parameters."""

    entry: Regulariser
    rate: float
    parameters: Mapping[str, float]

    def build(self, position: float) -> nn.Module:
        """Its module for the block at `position` l/L."""
        return self.entry.build(Rate(self.rate * self.entry.depth(position), self.entry.schedule), **self.parameters)


@dataclass(frozen=True)
class Regularisation:
    """At most one regulariser for each place."""

    chosen: Mapping[Place, Chosen]

    def inner(self, position: float) -> Callable[[int], nn.Module] | None:
        """Channels → what stands before a convolution of the block at `position` l/L; None if nothing does."""
        chosen = self.chosen.get("inner")
        return (lambda _: chosen.build(position)) if chosen else None

    def ends(self, position: float) -> dict[str, Callable[[int], nn.Module]]:
        """Channels → what stands at the end of the branch, by its name there."""
        chosen = self.chosen.get("end")
        return {"survival": lambda _: chosen.build(position)} if chosen else {}

    def convolution(self, convolution: nn.Conv2d, position: float) -> nn.Conv2d:
        """`convolution`, with its weights regularised if that was chosen."""
        chosen = self.chosen.get("weight")
        return RegularisedConvolution(convolution, chosen.build(position)) if chosen else convolution


def choose_regularisers(named: Mapping[str, float], joined: bool) -> Regularisation:
    """Those of `named`: `{name: rate, "name.parameter": value}`; `joined`: whether blocks have shortcuts.

    Raises `ValueError` for an unknown name, a rate that is not from 0 to below 1, an impossible parameter, two
    regularisers in one place, and one that needs what the network lacks.
    """
    chosen: dict[Place, Chosen] = {}
    names: dict[Place, str] = {}
    for name, rate in named.items():
        if "." in name:
            _check_parameter(name, named)
            continue
        if name not in REGULARISERS:
            raise ValueError(f"unknown regulariser {name!r}; choose from {', '.join(REGULARISERS)}")
        entry = REGULARISERS[name]
        if not 0 <= rate < 1:
            raise ValueError(f"rate {rate:g} of regulariser {name!r} is not allowed: use a number from 0 to below 1")
        if entry.place in chosen:
            raise ValueError(
                f"regularisers {names[entry.place]!r} and {name!r} would disturb the same values one after the other: "
                "choose one of them"
            )
        if entry.needs_shortcut and not joined:
            raise ValueError(
                f"regulariser {name!r} needs shortcuts: without one a block that is left out lets nothing through; "
                "choose another shortcut than 'none', or another regulariser"
            )
        parameters = {key: named.get(f"{name}.{key}", default) for key, default in entry.parameters.items()}
        chosen[entry.place], names[entry.place] = Chosen(entry, rate, parameters), name
        # What the modules refuse is refused even of a network that has no block.
        chosen[entry.place].build(1.0)
    return Regularisation(chosen)


def _check_parameter(name: str, named: Mapping[str, float]) -> None:
    owner, parameter = name.split(".", 1)
    if owner not in named or owner not in REGULARISERS:
        raise ValueError(f"{name!r} is a parameter of regulariser {owner!r}, which is not chosen: give its rate too")
    known = REGULARISERS[owner].parameters
    if parameter not in known:
        raise ValueError(f"regulariser {owner!r} has no parameter {parameter!r}; it has: {', '.join(known) or 'none'}")
