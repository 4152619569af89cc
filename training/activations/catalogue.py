"""The catalogue of activations, by key."""

from training.activations.entry import Activation
from training.activations.exponentials import EXPONENTIALS
from training.activations.rectifiers import RECTIFIERS
from training.activations.self_gated import SELF_GATED
from training.activations.sigmoids import SIGMOIDS

ACTIVATIONS: dict[str, Activation] = {**RECTIFIERS, **EXPONENTIALS, **SELF_GATED, **SIGMOIDS}


def find_activation(key: str) -> Activation:
    """Look an activation up; raises `ValueError` that lists the known keys."""
    if key not in ACTIVATIONS:
        raise ValueError(f"unknown activation {key!r}; choose from {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[key]
