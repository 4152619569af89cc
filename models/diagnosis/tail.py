"""Beyond the largest resamples: the tail of a maximum, as a generalised Pareto distribution of its square."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

TAIL_SHARE = 0.05
"""Of the resamples, that the tail is fitted to: below its start, resamples are counted."""


@dataclass(frozen=True)
class Tail:
    """The distribution of T ≥ 0 in several populations, P(T ≥ t), each from equally many samples.

    The square of a normal deviation has a nearly exponential tail, so that a straight extrapolation of T² errs little.
    The shape of the Pareto distribution is fitted over all populations and never below 0: no bound is inferred from
    what 10,000 resamples did not reach.
    """

    samples: NDArray[np.float32]
    """populations × samples, sorted"""
    start: Values
    """Where the tail of T² begins, by population."""
    scale: Values
    shape: float

    @classmethod
    def fitted(cls, samples: NDArray[np.float32]) -> "Tail":
        """By probability-weighted moments. Hosking & Wallis 1987, Technometrics 29(3)."""
        ordered = np.sort(samples, axis=1)
        count = ordered.shape[1]
        beyond = max(2, round(count * TAIL_SHARE))
        squares = ordered[:, -beyond - 1 :].astype(np.float64) ** 2
        excess = squares[:, 1:] - squares[:, :1]
        first = excess.mean(1)
        # E[X (1 − F(X))], F at plotting positions.
        second = (excess * ((beyond - np.arange(1, beyond + 1) + 0.35) / beyond)).mean(1)
        shape = max(0.0, float((2 - first / (first - 2 * second)).mean()))
        return cls(ordered, squares[:, 0], first * (1 - shape), shape)

    def beyond(self, statistics: Values) -> Values:
        """P(T ≥ t) in each population (row) for each t of `statistics` (column)."""
        count = self.samples.shape[1]
        counted = count - np.array([np.searchsorted(row, statistics, side="left") for row in self.samples])
        squares = statistics**2 - self.start[:, None]
        excess = np.maximum(squares, 0) / self.scale[:, None]
        decay = np.exp(-excess) if self.shape < 1e-6 else (1 + self.shape * excess) ** (-1 / self.shape)
        return np.asarray(np.where(squares > 0, decay * round(count * TAIL_SHARE), counted) / count)
