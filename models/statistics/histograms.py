"""Histograms on bins that never change, so that any two can be added: logarithmic, signed, with a bin for zero.

Bin i > 0 holds base^(i−1) < x · 2^16 ≤ base^i with base = 2^¼ (the buckets of a Prometheus native histogram of schema
2), bin −i its mirror image, and bin 0 |x| ≤ 2^−16. Whatever exceeds 2^16 is in the outermost bins.
"""

from functools import cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray

BINS_PER_OCTAVE = 4
OCTAVES = 16
"""On each side of 1."""
BINS_PER_SIGN = 2 * OCTAVES * BINS_PER_OCTAVE
BINS = 2 * BINS_PER_SIGN + 1
ZERO = BINS_PER_SIGN
"""Index of the zero bin."""
SMALLEST = 2.0**-OCTAVES


@cache
def _edges() -> NDArray[np.float64]:
    """Upper edges of the positive bins, ascending, the zero bin's first."""
    # Square roots and scaling by powers of two are rounded alike on every machine; powers and logarithms are not.
    mantissas = np.array([1, sqrt(sqrt(2)), sqrt(2), sqrt(sqrt(8))])
    edges: NDArray[np.float64] = np.ldexp(mantissas, np.arange(-OCTAVES, OCTAVES)[:, None]).ravel()
    return np.append(edges, 2.0**OCTAVES)


def midpoints() -> NDArray[np.float64]:
    """The geometric middle of every bin, ascending; 0 for the zero bin."""
    positive = np.sqrt(_edges()[1:] * _edges()[:-1])
    return np.concatenate([-positive[::-1], [0.0], positive])


def bins(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """The index of the bin of each finite value."""
    # By comparison with the edges, not by a logarithm: equal values fall into equal bins on every machine.
    magnitude = np.minimum(np.searchsorted(_edges(), np.abs(values), side="left"), BINS_PER_SIGN)
    index: NDArray[np.int64] = ZERO + np.sign(values).astype(np.int64) * magnitude
    return index


def histograms(samples: NDArray[np.floating]) -> NDArray[np.int64]:
    """Counts of samples × columns as columns × `BINS`; what is not finite is not counted."""
    columns = samples.shape[1]
    finite = np.isfinite(samples)
    flat = bins(np.where(finite, samples, 0)) + np.arange(columns) * BINS
    counts = np.bincount(flat[finite], minlength=columns * BINS)
    return counts.reshape(columns, BINS).astype(np.int64)


def wasserstein(counts: NDArray[np.int64], reference: NDArray[np.int64]) -> NDArray[np.float64]:
    """The distance W₁ = ∫|F − G| between histograms (…, `BINS`), each value at the middle of its bin; NaN for none."""
    with np.errstate(all="ignore"):
        first, second = (np.cumsum(h, -1) / h.sum(-1, keepdims=True) for h in (counts, reference))
        distance: NDArray[np.float64] = (np.abs(first - second)[..., :-1] * np.diff(midpoints())).sum(-1)
    return distance


def quantile(counts: NDArray[np.int64], q: float) -> NDArray[np.float64]:
    """The middle of the bin in which the q-quantile of each histogram (…, `BINS`) lies; NaN for an empty one."""
    total = counts.sum(-1, keepdims=True)
    index = (np.cumsum(counts, -1) >= np.maximum(np.ceil(q * total), 1)).argmax(-1)
    return np.where(total[..., 0] > 0, midpoints()[index], np.nan)
