"""Moments that merge exactly: count, mean and centred second moment, per column."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moments:
    """`count` samples with their `mean` and `m2` = Σ(x − mean)², one entry a column, in float64."""

    count: int
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @classmethod
    def of(cls, samples: NDArray[np.floating]) -> Self:
        """Moments of samples × columns."""
        values = samples.astype(np.float64)
        mean = values.mean(0)
        return cls(len(values), mean, ((values - mean) ** 2).sum(0))

    def merged(self, other: Self) -> Self:
        """The moments of both sets of samples together, by the pairwise update of Chan, Golub & LeVeque 1979."""
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        return type(self)(count, mean, self.m2 + other.m2 + delta**2 * (self.count * other.count / count))

    @property
    def variance(self) -> NDArray[np.float64]:
        """Unbiased sample variance m2 / (count − 1); NaN for a single sample."""
        if self.count < 2:
            return np.full_like(self.mean, np.nan)
        return self.m2 / (self.count - 1)
