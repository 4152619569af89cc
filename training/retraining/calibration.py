"""Whether a classifier is right as often as it says."""

import math

import numpy as np
from numpy.typing import NDArray

BINS = 15


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax of N×K."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    normalised: NDArray[np.float64] = shifted / shifted.sum(1, keepdims=True)
    return normalised


def calibration_error(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Σ_b |B_b|/n · |accuracy(B_b) − confidence(B_b)| over 15 equal bins (b/15, (b + 1)/15] of the largest probability.

    Guo et al. 2017, arXiv 1706.04599. On few images it is larger than it really is: by chance, bins are not exact.
    Not a number where a logit is none.
    """
    if not np.isfinite(logits).all():
        return math.nan
    found = probabilities(logits)
    confidence = found.max(1)
    right = found.argmax(1) == labels
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    sums = [np.bincount(bins, values, BINS) for values in (right.astype(np.float64), confidence)]
    return float(np.abs(sums[0] - sums[1]).sum() / len(labels))
