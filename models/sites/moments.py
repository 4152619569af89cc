"""What becomes of N(0, 1) in an activation."""

import math

import numpy as np

from models.sites.expressions import Function, Values

REACH = 10.0
"""N(0, 1) is integrated to ±10 standard deviations: what is left out weighs 1e-23."""
NODES = 16


def normal_moments(f: Function, kinks: tuple[float, ...] = ()) -> tuple[float, float]:
    """Mean ∫ f φ and variance ∫ f² φ − mean² of the output over all channels, for inputs from N(0, 1).

    By Gauss–Legendre quadrature on panels that end at the multiples of ½ and at `kinks`.
    """
    x, weights = _quadrature(kinks)
    y = f(x)
    mean = float((y * weights).sum(1).mean())
    return mean, float((y**2 * weights).sum(1).mean()) - mean**2


def _quadrature(kinks: tuple[float, ...]) -> tuple[Values, Values]:
    inner = [kink for kink in kinks if abs(kink) < REACH]
    bounds = np.unique(np.concatenate([np.arange(-REACH, REACH + 0.5, 0.5), inner]))
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    middle, half = (bounds[1:] + bounds[:-1]) / 2, (bounds[1:] - bounds[:-1]) / 2
    x = (middle[:, None] + half[:, None] * nodes).ravel()
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return x, (half[:, None] * weights).ravel() * density
