"""Layers in which the activation no longer answers to its input."""

from collections.abc import Iterator

import numpy as np

from models.diagnosis.case import Case, Layer, listed, share
from models.diagnosis.finding import Finding
from models.diagnosis.intervals import Z, standard_errors
from models.statistics import layout


def saturation(case: Case) -> Iterator[Finding]:
    """Saturated units beyond half of the layer are critical; saturated values `rise` above the baseline a warning.

    A unit (channel) is saturated when more than `saturated_unit` of its values are: that half of the values are is
    what a rectifier does. A layer that is as saturated in the baseline is reported as information.
    """
    limits = case.thresholds
    for site, now, before in case.layers():
        if layout.SATURATED not in now.moments:
            continue
        value, units = _share(now), _units(now, limits.saturated_unit)
        was = None if before is None else _share(before)
        risen = was is not None and value > was + limits.rise
        many = units.mean() > limits.saturated_share
        usual = before is not None and _units(before, limits.saturated_unit).mean() > limits.saturated_share
        if not (many or risen):
            continue
        beside = "" if was is None else f" (baseline {share(was)})"
        yield Finding(
            rule="saturation",
            part=site.name,
            severity=("info" if usual and not risen else "critical") if many else "warning",
            cause=f"{site.name}: {share(value)} of the values saturated{beside}, "
            f"{int(units.sum())} of {site.channels} channels nearly always",
            value=value,
            baseline=was,
            interval=_interval(now, value),
            images=case.images,
            evidence={"channels": listed(units), "saturated_channels": int(units.sum())},
        )


def _share(layer: Layer) -> float:
    return float(layer.moments[layout.SATURATED].mean.mean())


def _units(layer: Layer, limit: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray(layer.moments[layout.SATURATED].mean > limit)


def _interval(layer: Layer, value: float) -> tuple[float, float]:
    """As if the channels erred together, which is the widest it can be."""
    half = Z * float(standard_errors(layer.moments[layout.SATURATED]).mean())
    return max(0.0, value - half), min(1.0, value + half)
