"""95 % intervals of what a window measures."""

import numpy as np

from models.statistics.moments import Moments

Z = 1.959964
"""The 97.5 % quantile of N(0, 1)."""


def wilson(hits: int, trials: int, z: float = Z) -> tuple[float, float]:
    """Interval of a share. Wilson 1927; the whole of [0, 1] without a trial."""
    if not trials:
        return 0.0, 1.0
    share, weight = hits / trials, z**2 / trials
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * np.sqrt(share * (1 - share) / trials + weight / trials / 4)
    # At 0 and 1 a bound is the share itself, but for rounding.
    return max(0.0, min(share, float(centre - half))), min(1.0, max(share, float(centre + half)))


def of_mean(moments: Moments, column: int = 0) -> tuple[float, float] | None:
    """mean ± z·σ/√n of one column; None for fewer than two samples."""
    if moments.count[column] < 2:
        return None
    half = Z * float(np.sqrt(moments.variance[column] / moments.count[column]))
    return float(moments.mean[column]) - half, float(moments.mean[column]) + half


def standard_errors(moments: Moments) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """σ/√n of every column; 0 for fewer than two samples."""
    errors = np.sqrt(np.nan_to_num(moments.variance) / np.maximum(moments.count, 1))
    return np.asarray(errors, np.float64)
