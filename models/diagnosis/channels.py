"""Channels that do nothing: dead, dormant, and layers in which most are quiet.

A channel counts as newly so only if chance cannot explain it: the baseline saw it often enough.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from models.diagnosis.case import Case, Layer, listed, share
from models.diagnosis.finding import Finding
from models.diagnosis.intervals import wilson
from models.statistics import layout

CHANCE = 1e-6
"""Of one channel looking newly dead although nothing changed: times all channels, far below any budget of alarms."""
MANY = 0.5
"""Share of a layer's channels that makes it critical."""


def dead_channels(case: Case) -> Iterator[Finding]:
    """Channels that fired in no image, where a zero means no gradient either, and fired before.

    If the baseline saw a channel fire in f of m images and nothing changed, then n silent images have the probability
    ≈ (m/(n + m))ᶠ. Without a baseline every dead channel counts.
    """
    for site, now, before in case.layers():
        if not site.zero_is_dead:
            continue
        dead = now.dead
        new = dead if before is None else dead & (_chance_of_silence(now, before) < CHANCE)
        if not new.any():
            continue
        count = int(dead.sum())
        was = None if before is None else int(before.dead.sum())
        known = "" if was is None else f" (baseline {was})"
        yield Finding(
            rule="dead_channels",
            part=site.name,
            severity="critical" if new.mean() > MANY else "warning",
            cause=f"{site.name}: {count} of {site.channels} channels dead{known}",
            value=count,
            baseline=was,
            interval=None,
            images=case.images,
            # The rule of three: with 95 % confidence a channel that never fired fires more rarely than that.
            evidence={
                "channels": listed(dead),
                "newly_dead": int(new.sum()),
                "rate_below": float(-np.log(0.05) / now.mean.count.min()),
            },
        )


def dormant_channels(case: Case) -> Iterator[Finding]:
    """Channels whose E|h| is at most τ of their layer's mean, and was at least twice that. Sokar et al. 2023.

    E|h| is the mean of m where the activation is never negative; elsewhere √(E q²), which is not smaller.
    """
    limit = case.thresholds.dormant_score
    for site, now, before in case.layers():
        dormant = (score := _score(now, site.signed)) <= limit
        new, was = dormant, None
        if before is not None:
            known = _score(before, site.signed)
            was = int((known <= limit).sum())
            new = dormant & (known >= 2 * limit) & (_fall(now, before, site.signed) < -5)
        if not new.any():
            continue
        beside = "" if was is None else f" (baseline {was})"
        yield Finding(
            rule="dormant_channels",
            part=site.name,
            severity="warning",
            cause=f"{site.name}: {int(dormant.sum())} of {site.channels} channels dormant, "
            f"at most {share(limit)} of the layer's mean{beside}",
            value=int(dormant.sum()),
            baseline=was,
            interval=None,
            images=case.images,
            evidence={"channels": listed(dormant), "newly_dormant": int(new.sum()), "lowest_score": float(score.min())},
        )


def dying_layer(case: Case) -> Iterator[Finding]:
    """Share of channels that are active in hardly any image.

    Beyond half it is critical, `rise` above the baseline a warning; counted above it are channels that were active
    at least twice as often as a quiet one. A layer that is as quiet in the baseline is reported as information.
    """
    limits = case.thresholds
    for site, now, before in case.layers():
        if not site.zero_is_dead:
            continue
        quiet = now.rate < limits.quiet_rate
        new = quiet if before is None else quiet & (before.rate >= 2 * limits.quiet_rate)
        was = None if before is None else float((before.rate < limits.quiet_rate).mean())
        many, risen = quiet.mean() > limits.quiet_share, new.mean() > limits.rise
        if not (many or (risen and before is not None)):
            continue
        beside = "" if was is None else f" (baseline {share(was)})"
        yield Finding(
            rule="dying_layer",
            part=site.name,
            severity=("critical" if risen else "info") if many else "warning",
            cause=f"{site.name}: {share(float(quiet.mean()))} of the channels are active in less than "
            f"{share(limits.quiet_rate)} of the images{beside}",
            value=float(quiet.mean()),
            baseline=was,
            interval=_quiet_interval(now, limits.quiet_rate),
            images=case.images,
            evidence={"channels": listed(quiet), "newly_quiet": int(new.sum())},
        )


def _chance_of_silence(now: Layer, before: Layer) -> NDArray[np.float64]:
    n, m = now.mean.count, before.mean.count
    return np.asarray((m / np.maximum(n + m, 1)) ** before.fired, np.float64)


def _score(layer: Layer, signed: bool) -> NDArray[np.float64]:
    """E|h| of each channel over the mean of the layer; 0 in a layer of zeros."""
    size = np.sqrt(layer.square.mean) if signed else layer.mean.mean
    return np.asarray(size / (size.mean() or 1.0), np.float64)


def _fall(now: Layer, before: Layer, signed: bool) -> NDArray[np.float64]:
    """Standardised deviation of each channel's E|h| (or E q²) from the baseline's."""
    output = layout.MEAN_SQUARE if signed else layout.MEAN
    seen, known = now.moments[output], before.moments[output]
    error = np.sqrt(known.variance * (1 / np.maximum(seen.count, 1) + 1 / np.maximum(known.count, 1)))
    return np.asarray((seen.mean - known.mean) / np.where(error > 0, error, np.inf), np.float64)


def _quiet_interval(layer: Layer, rate: float) -> tuple[float, float]:
    """Channels that are surely quiet, and those that may be: each by its own 95 % interval."""
    bounds = [wilson(int(f), int(n)) for f, n in zip(layer.fired, layer.mean.count, strict=True)]
    return float(np.mean([high < rate for _, high in bounds])), float(np.mean([low < rate for low, _ in bounds]))
