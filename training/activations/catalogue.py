"""The catalogue of activations, by key: those of this package, and those that other packages bring."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from training.activations.dynamic import DYNAMIC
from training.activations.entry import Activation
from training.activations.exponentials import EXPONENTIALS
from training.activations.groupings import GROUPINGS
from training.activations.rectifiers import RECTIFIERS
from training.activations.self_gated import SELF_GATED
from training.activations.sigmoids import SIGMOIDS

ENTRY_POINTS = "reslens.activations"
"""Group of the entry points by which an installed package adds activations; see docs/activations.md."""

ACTIVATIONS: dict[str, Activation] = {**RECTIFIERS, **EXPONENTIALS, **SELF_GATED, **SIGMOIDS, **GROUPINGS, **DYNAMIC}


def catalogue() -> dict[str, Activation]:
    """Every activation: ours, then those of installed packages; raises `ValueError` as `find_activation` does."""
    return {key: find_activation(key) for key in activation_keys()}


def find_activation(key: str, parameters: Mapping[str, float] | None = None) -> Activation:
    """Look an activation up and set its parameters.

    Raises `ValueError` for an unknown key or parameter, listing the known ones, and for an entry point that takes a key
    in use, does not load, or is no `Activation`.
    """
    points = entry_points(group=ENTRY_POINTS, name=key)
    if len(points) + (key in ACTIVATIONS) > 1:
        taken = ", ".join(point.value for point in points)
        raise ValueError(f"activation key {key!r} is taken more than once ({taken}): rename that entry point")
    if key in ACTIVATIONS:
        found = ACTIVATIONS[key]
    elif points:
        (point,) = points
        found = _load(point)
    else:
        raise ValueError(f"unknown activation {key!r}; choose from {', '.join(activation_keys())}")
    return found.configured(key, parameters or {})


def activation_keys() -> list[str]:
    """Every key: ours, then those of installed packages, whether they can be loaded or not."""
    return list(dict.fromkeys([*ACTIVATIONS, *(point.name for point in entry_points(group=ENTRY_POINTS))]))


def _load(point: EntryPoint) -> Activation:
    try:
        activation = point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"activation {point.name!r} ({point.value}) cannot be loaded: {error}") from error
    # It runs the code of another package, which may raise anything.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"activation {point.name!r} ({point.value}) cannot be loaded: {reason}") from error
    if not isinstance(activation, Activation):
        raise ValueError(
            f"activation {point.name!r} ({point.value}) is of type {type(activation).__name__}, not Activation"
        )
    return activation
