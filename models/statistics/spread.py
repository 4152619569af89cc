"""In how many directions a layer's channels vary together: moments of a fixed random projection, and their rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 64
"""A wider layer is projected to this many."""
_SEED = 20261121


def projection(channels: int) -> NDArray[np.float64]:
    """The map from the channel means of a layer to what is kept of them: channels × at most `DIMENSIONS`.

    The identity for narrow layers, else N(0, 1/`DIMENSIONS`), the same for every layer of this width, always.
    """
    if channels <= DIMENSIONS:
        return np.eye(channels)
    generator = np.random.Generator(np.random.PCG64(_SEED + channels))
    return generator.normal(0, DIMENSIONS**-0.5, (channels, DIMENSIONS))


@dataclass(frozen=True)
class Spread:
    """count, mean and scatter S = Σ(z − mean)(z − mean)ᵀ of the projected channel means z of one layer."""

    count: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @classmethod
    def empty(cls, channels: int) -> Self:
        """No image yet."""
        size = min(channels, DIMENSIONS)
        return cls(0, np.zeros(size), np.zeros((size, size)))

    @classmethod
    def of(cls, means: NDArray[np.floating], matrix: NDArray[np.float64]) -> Self:
        """Of images × channels, those left out that are not finite; `matrix` is the layer's `projection`."""
        z = means[np.isfinite(means).all(1)].astype(np.float64) @ matrix
        if not len(z):
            return cls.empty(len(matrix))
        mean = z.mean(0)
        centred = z - mean
        return cls(len(z), mean, centred.T @ centred)

    def merged(self, other: Self) -> Self:
        """Both sets of images together."""
        count = self.count + other.count
        if not count:
            return self
        share = other.count / count
        delta = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(delta, delta) * (self.count * share)
        return type(self)(count, self.mean + delta * share, scatter)

    @property
    def rank(self) -> float:
        """The participation ratio (tr S)² / tr S², from 1 to the dimension; NaN for fewer than two images or S = 0.

        It grows with the number of images n, for d isotropic directions as nd/(n + d): compare at equal n only.
        """
        square = float((self.scatter**2).sum())
        return float(np.trace(self.scatter)) ** 2 / square if self.count > 1 and square > 0 else float("nan")


def merged(first: Sequence[Spread], second: Sequence[Spread]) -> tuple[Spread, ...]:
    """Layer by layer."""
    return tuple(a.merged(b) for a, b in zip(first, second, strict=True))


def arrays(spreads: Sequence[Spread]) -> dict[str, NDArray[Any]]:
    """To store them: the counts, and all means and upper triangles one after the other."""
    return {
        "spread/count": np.array([spread.count for spread in spreads], np.int64),
        "spread/size": np.array([len(spread.mean) for spread in spreads], np.int64),
        "spread/mean": np.concatenate([spread.mean for spread in spreads]),
        "spread/scatter": np.concatenate([spread.scatter[np.triu_indices(len(spread.mean))] for spread in spreads]),
    }


def from_arrays(stored: Mapping[str, NDArray[Any]]) -> tuple[Spread, ...]:
    """What `arrays` stored."""
    spreads = []
    mean_start = scatter_start = 0
    for count, size in zip(stored["spread/count"].tolist(), stored["spread/size"].tolist(), strict=True):
        triangle = size * (size + 1) // 2
        mean = stored["spread/mean"][mean_start : mean_start + size]
        upper = np.zeros((size, size))
        upper[np.triu_indices(size)] = stored["spread/scatter"][scatter_start : scatter_start + triangle]
        spreads.append(Spread(count, mean, upper + np.triu(upper, 1).T))
        mean_start += size
        scatter_start += triangle
    return tuple(spreads)
