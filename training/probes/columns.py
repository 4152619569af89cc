"""A reading as lists in the order of depth, which is how it is kept."""

import math
from typing import Any

from training.probes.reading import NetworkReading

DIGITS = 4
"""Of the figures that are kept."""
OF_LAYERS = ("mean", "std", "mean_shift", "saturated", "dead_units", "dead_channels", "rank")
OF_WEIGHTS = ("gradient_rms", "weight_rms", "update_ratio")


def columns(reading: NetworkReading) -> dict[str, Any]:
    """Short enough to keep thousands; null where there is no number."""
    layers, weights = reading.layers, reading.weights
    learned = {name for layer in layers for name in layer.learned}
    watched = OF_WEIGHTS if any(weight.update_ratio is not None for weight in weights) else OF_WEIGHTS[:2]
    return {
        "loss": number(reading.loss),
        "layers": [layer.name for layer in layers],
        **{figure: [number(getattr(layer, figure)) for layer in layers] for figure in OF_LAYERS},
        "learned": {name: [_summary(layer.learned.get(name)) for layer in layers] for name in sorted(learned)},
        "weights": [weight.name for weight in weights],
        **{figure: [number(getattr(weight, figure)) for weight in weights] for figure in watched},
    }


def number(value: float | None) -> float | None:
    """In few digits; None for what is no number."""
    return float(f"{value:.{DIGITS}g}") if value is not None and math.isfinite(value) else None


def _summary(learned: tuple[float, float, float] | None) -> list[float | None] | None:
    return None if learned is None else [number(value) for value in learned]
