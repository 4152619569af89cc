"""P-values by rank: how many calibration scores are as extreme as this one."""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def p_values(scores: NDArray[np.floating], calibration: Values) -> Values:
    """p = (1 + #{calibration ≥ score}) / (n + 1), for `calibration` sorted ascending; 1/(n + 1) for NaN.

    Uniform on {1, …, n + 1}/(n + 1) for a score exchangeable with the calibration's, ties aside (those make p larger).
    """
    worst = np.where(np.isnan(scores), np.inf, scores)
    below = np.searchsorted(calibration, worst, side="left")
    ranks: Values = (1 + len(calibration) - below) / (len(calibration) + 1)
    return ranks
