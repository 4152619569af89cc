"""Moments that merge exactly: count, mean and centred second moment, per column."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Columns = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """For each column: how many samples were finite, their mean, and m2 = Σ(x − mean)², in float64."""

    count: NDArray[np.int64]
    mean: Columns
    """0 in a column without samples."""
    m2: Columns

    @classmethod
    def empty(cls, columns: int) -> Self:
        """No sample yet: merging it changes nothing."""
        return cls(np.zeros(columns, np.int64), np.zeros(columns), np.zeros(columns))

    @classmethod
    def of(cls, samples: NDArray[np.floating]) -> Self:
        """Moments of samples × columns; a sample that is not finite is left out of its column's count and sums."""
        finite = np.isfinite(samples)
        deviations = samples.astype(np.float64)
        if finite.all():
            count = np.full(samples.shape[1], len(samples), np.int64)
            mean = deviations.sum(0) / max(len(samples), 1)
            deviations -= mean
        else:
            count = finite.sum(0, dtype=np.int64)
            mean = np.where(finite, deviations, 0).sum(0) / np.maximum(count, 1)
            deviations = np.where(finite, deviations, mean) - mean
        return cls(count, mean, np.einsum("nc,nc->c", deviations, deviations))

    def merged(self, other: Self) -> Self:
        """The moments of both sets of samples together, by the pairwise update of Chan, Golub & LeVeque 1979."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        delta = other.mean - self.mean
        return type(self)(count, self.mean + delta * share, self.m2 + other.m2 + delta**2 * self.count * share)

    @property
    def variance(self) -> Columns:
        """Unbiased sample variance m2 / (count − 1); NaN for fewer than two samples."""
        return np.where(self.count > 1, self.m2 / np.maximum(self.count - 1, 1), np.nan)

    @property
    def total(self) -> Columns:
        """Σx."""
        return self.mean * self.count

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """To store it: arrays by name."""
        return {f"{prefix}/count": self.count, f"{prefix}/mean": self.mean, f"{prefix}/m2": self.m2}

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What `arrays` stored; raises `KeyError` where something is missing."""
        return cls(arrays[f"{prefix}/count"], arrays[f"{prefix}/mean"], arrays[f"{prefix}/m2"])
