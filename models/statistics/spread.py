"""In how many directions a layer's channels vary together: moments of a fixed random projection, and their rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 64
"""A wider layer is projected to this many."""
_SEED = 20261121


@cache
def signs(channels: int) -> NDArray[np.float64]:
    """The random projection of a wide layer: channel c is added to dimension c mod `DIMENSIONS` with the sign s_c = ±1,
    always the same one for this number of channels.

    Charikar et al. 2002, Finding frequent items in data streams: inner products are kept in expectation, as by a dense
    random matrix, but for one addition a channel instead of `DIMENSIONS`.
    """
    # Random bits, whose stream NumPy never changes, unlike those of distributions.
    return np.where(np.random.PCG64(_SEED + channels).random_raw(channels) >> np.uint64(63), 1.0, -1.0)


def projected(means: NDArray[np.floating]) -> NDArray[np.float64]:
    """images × channels → images × at most `DIMENSIONS`; a narrower layer stays as it is."""
    images, channels = means.shape
    if channels <= DIMENSIONS:
        return means.astype(np.float64)
    rows = -(-channels // DIMENSIONS)
    signed = np.zeros((images, rows * DIMENSIONS))
    np.multiply(means, signs(channels), out=signed[:, :channels])
    summed: NDArray[np.float64] = signed.reshape(images, rows, DIMENSIONS).sum(1)
    return summed


@cache
def _triangle(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Rows, columns and flat indices of the upper triangle of a matrix, in the order in which it is kept."""
    rows, columns = np.triu_indices(size)
    return rows, columns, rows * size + columns


@dataclass(frozen=True)
class Spread:
    """count, mean and scatter S = Σ(z − mean)(z − mean)ᵀ of the projected channel means z of one layer."""

    count: int
    mean: NDArray[np.float64]
    triangle: NDArray[np.float64]
    """The upper triangle of S, row after row."""

    @classmethod
    def empty(cls, channels: int) -> Self:
        """No image yet."""
        size = min(channels, DIMENSIONS)
        return cls(0, np.zeros(size), np.zeros(size * (size + 1) // 2))

    @classmethod
    def of(cls, means: NDArray[np.floating]) -> Self:
        """Of images × channels, those left out that are not finite."""
        finite = np.isfinite(means)
        z = projected(means if finite.all() else means[finite.all(1)])
        if not len(z):
            return cls.empty(means.shape[1])
        mean = z.sum(0) / len(z)
        z -= mean
        return cls(len(z), mean, (z.T @ z).take(_triangle(len(mean))[2]))

    def merged(self, other: Self) -> Self:
        """Both sets of images together."""
        count = self.count + other.count
        if not count:
            return self
        share = other.count / count
        delta = other.mean - self.mean
        rows, columns, _ = _triangle(len(delta))
        triangle = self.triangle + other.triangle + delta[rows] * delta[columns] * (self.count * share)
        return type(self)(count, self.mean + delta * share, triangle)

    @property
    def scatter(self) -> NDArray[np.float64]:
        """S as a whole."""
        upper = np.zeros((len(self.mean), len(self.mean)))
        upper.put(_triangle(len(self.mean))[2], self.triangle)
        return upper + np.triu(upper, 1).T

    @property
    def rank(self) -> float:
        """The participation ratio (tr S)² / tr S², from 1 to the dimension; NaN for fewer than two images or S = 0.

        It grows with the number of images n, for d isotropic directions as nd/(n + d): compare at equal n only.
        """
        scatter = self.scatter
        square = float((scatter**2).sum())
        return float(np.trace(scatter)) ** 2 / square if self.count > 1 and square > 0 else float("nan")


def merged(first: Sequence[Spread], second: Sequence[Spread]) -> tuple[Spread, ...]:
    """Layer by layer."""
    return tuple(a.merged(b) for a, b in zip(first, second, strict=True))


def arrays(spreads: Sequence[Spread]) -> dict[str, NDArray[Any]]:
    """To store them: the counts, and all means and upper triangles one after the other."""
    return {
        "spread/count": np.array([spread.count for spread in spreads], np.int64),
        "spread/size": np.array([len(spread.mean) for spread in spreads], np.int64),
        "spread/mean": np.concatenate([spread.mean for spread in spreads]),
        "spread/scatter": np.concatenate([spread.triangle for spread in spreads]),
    }


def from_arrays(stored: Mapping[str, NDArray[Any]]) -> tuple[Spread, ...]:
    """What `arrays` stored; raises `KeyError` or `ValueError` for anything else."""
    sizes = stored["spread/size"]
    triangles = sizes * (sizes + 1) // 2
    for name, expected in (("mean", sizes.sum()), ("scatter", triangles.sum())):
        if stored[f"spread/{name}"].shape != (expected,):
            raise ValueError(f"spread/{name} has shape {stored[f'spread/{name}'].shape}, expected ({expected},)")
    means = np.split(stored["spread/mean"], np.cumsum(sizes)[:-1])
    scatters = np.split(stored["spread/scatter"], np.cumsum(triangles)[:-1])
    return tuple(
        Spread(count, mean, triangle)
        for count, mean, triangle in zip(stored["spread/count"].tolist(), means, scatters, strict=True)
    )
