"""What is kept of single images to learn what is usual, and to judge them by it: channel means and logits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelManifest
from models.statistics import layout

FEWEST = 8
"""Images that are kept whatever they take."""

Outputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Features:
    """What is kept of images to judge them: channel means (images × ΣC) and logits."""

    means: NDArray[np.floating]
    logits: NDArray[np.floating]

    @classmethod
    def of(cls, outputs: Outputs, manifest: ModelManifest) -> Self:
        """From the outputs of an instrumented run."""
        return cls(outputs[layout.MEAN], outputs[manifest.logits.name])

    @classmethod
    def joined(cls, parts: Iterable["Features"]) -> "Features":
        """All images together."""
        parts = list(parts)
        return Features(np.concatenate([p.means for p in parts]), np.concatenate([p.logits for p in parts]))

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Which images have nothing that is not."""
        finite: NDArray[np.bool_] = np.isfinite(self.means).all(1) & np.isfinite(self.logits).all(1)
        return finite

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> "Features":
        return Features(self.means[rows], self.logits[rows])


class ThinnedFeatures:
    """The features of every k-th image that was added, k a power of two so that they fit into `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._every = 1
        self._seen = 0
        self._parts: list[Features] = []

    def add(self, batch: Features) -> None:
        """Keep those images whose turn it is."""
        turns = np.arange(self._seen, self._seen + len(batch.logits))
        self._parts.append(batch[np.flatnonzero(turns % self._every == 0)])
        self._seen += len(turns)
        while self._bytes() > self._limit and sum(len(part.logits) for part in self._parts) > FEWEST:
            self._parts = [self.features[::2]]
            self._every *= 2

    def _bytes(self) -> int:
        return sum(part.means.nbytes + part.logits.nbytes for part in self._parts)

    @property
    def features(self) -> Features:
        """All that are kept, in order."""
        return Features.joined(self._parts)
