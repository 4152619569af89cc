"""How large the largest deviation gets when nothing has changed, and the threshold that keeps the budget of alarms.

For windows of n images and a baseline of m, each scalar's mean deviates by z = (x̄ − μ̂)/(σ √(1/n + 1/m)), and a window
by T = max |z| over all of them (Westfall & Young 1993). T is drawn from the baseline's own images, so that whatever
dependence there is between the scalars is in it: of `RESAMPLES` windows, bootstrapped at equal n, each is compared with
`BASELINES` baselines, whose own error is drawn from the normal limit with the same covariance.

That error does not go away: a baseline that happens to be off is off for every window, so windows do not alarm
independently. They do given the baseline, if traffic is exchangeable. The rate of confirmed alarms is therefore
computed for each drawn baseline and averaged; the threshold is where this average meets the budget.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.diagnosis.tail import Tail

RESAMPLES = 10_000
BASELINES = 200
LARGEST_RESAMPLE = 4096
"""Windows beyond it differ from normal by less; theirs are drawn at this size, which errs on the side of silence."""
_CHUNK = 500
_SEED = 20261121
_GRID = np.arange(0, 50, 0.05)

Matrix = NDArray[np.float32]


def onset_rate(p: NDArray[np.float64], needed: int, of: int) -> NDArray[np.float64]:
    """How often per window `needed` of the last `of` come together anew, if each alarms with p independently.

    The newest alarms, needed − 1 of the of − 1 before it did, and the one before those did not (else it was confirmed
    already, or will be when it leaves): C(of − 1, needed − 1) pⁿ (1 − p)^(of − needed + 1) with n = needed. Beyond its
    maximum, where alarms never end, it is held there.
    """
    p = np.minimum(p, needed / (of + 1))
    return np.asarray(math.comb(of - 1, needed - 1) * p**needed * (1 - p) ** (of - needed + 1))


class Budget(NamedTuple):
    """How often confirmed alarms may begin when nothing has changed."""

    rate: float
    """Per window."""
    needed: int
    """Windows that must alarm …"""
    of: int
    """… of the last this many."""


@dataclass(frozen=True)
class Null:
    """The distribution of T for windows of about n images, averaged over baselines, and where alarms begin."""

    threshold: float
    log_survival: NDArray[np.float64]
    """ln P(T ≥ t) at `_GRID`."""

    @classmethod
    def of(cls, deviations: Matrix, errors: Matrix, shared: float, budget: Budget) -> "Null":
        """From standardised deviations of windows (scalars × resamples) and of baselines (scalars × baselines).

        `shared` is n/(n + m), the part of the variance that all windows have in common.
        """
        tail = Tail.fitted(
            _maxima(deviations * np.float32(math.sqrt(1 - shared)), errors * np.float32(math.sqrt(shared)))
        )
        survival = tail.beyond(_GRID).mean(0)
        return cls(_threshold(tail, budget), np.log(np.maximum(survival, 1e-300)))

    def p_value(self, statistic: float) -> float:
        """P(T ≥ statistic)."""
        return float(np.exp(np.interp(statistic, _GRID, self.log_survival)))


def _maxima(windows: Matrix, baselines: Matrix) -> Matrix:
    """T of each window against each baseline: baselines × windows."""
    maxima = np.empty((baselines.shape[1], windows.shape[1]), np.float32)
    for start in range(0, windows.shape[1], _CHUNK):
        chunk = np.ascontiguousarray(windows[:, start : start + _CHUNK])
        for row in range(len(maxima)):
            maxima[row, start : start + _CHUNK] = np.abs(chunk - baselines[:, row, None]).max(0)
    return maxima


def _threshold(tail: Tail, budget: Budget) -> float:
    """By bisection; of the two sides the silent one."""
    low, high = 0.0, float(_GRID[-1])
    for _ in range(50):
        middle = (low + high) / 2
        if onset_rate(tail.beyond(np.array([middle])), budget.needed, budget.of).mean() > budget.rate:
            low = middle
        else:
            high = middle
    return high


def window_deviations(standardised: Matrix, images: int) -> Matrix:
    """√n · mean of n images drawn with replacement from images × scalars, `RESAMPLES` times: scalars × resamples."""
    generator = np.random.Generator(np.random.SFC64(_SEED + images))
    known, rows = len(standardised), []
    for _ in range(RESAMPLES // _CHUNK):
        drawn = generator.integers(0, known, (_CHUNK, images), dtype=np.int32)
        drawn += np.arange(_CHUNK, dtype=np.int32)[:, None] * known
        counts = np.bincount(drawn.ravel(), minlength=_CHUNK * known).reshape(_CHUNK, known)
        rows.append(counts.astype(np.float32) @ standardised)
    means: Matrix = np.ascontiguousarray(np.concatenate(rows).T / np.float32(math.sqrt(images)))
    return means.astype(np.float32, copy=False)


def baseline_errors(standardised: Matrix) -> Matrix:
    """Deviations of whole baselines in their standard errors, in the normal limit: scalars × `BASELINES`."""
    normal = np.random.default_rng(_SEED).standard_normal((BASELINES, len(standardised)), np.float32)
    errors: Matrix = np.ascontiguousarray((normal @ standardised).T / np.float32(math.sqrt(len(standardised))))
    return errors.astype(np.float32, copy=False)
