"""What a model's layers did to a set of images, as numbers that merge: in any order, however the images were split."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelManifest
from models.statistics import layout, spread
from models.statistics.archive import below, pack, unpack, with_prefix
from models.statistics.features import Features
from models.statistics.histograms import BINS, histograms
from models.statistics.layers import StatisticsReader
from models.statistics.moments import Moments
from models.statistics.outliers import OutlierModel
from models.statistics.scalars import Scalars
from models.statistics.spread import Spread

Outputs = Mapping[str, NDArray[np.float32]]

UNUSUAL = 0.01
"""The p-value below which a single image counts as unusual: 1 % of the images that the model knows."""


@dataclass(frozen=True)
class Window:
    """Counts, moments, extremes and histograms over images. An image counts once in each; a value that is not finite
    counts in none, so that it poisons no sum: what is missing from a count of `moments` was not finite.
    """

    images: int
    predicted: NDArray[np.int64]
    """Images by predicted class; those without finite logits in none."""
    moments: dict[str, Moments]
    """By statistics output of `models.statistics.layout`, the extremes aside: one column a channel (or block)."""
    maximum: NDArray[np.float64]
    """Of each channel; −∞ before any image."""
    minimum: NDArray[np.float64]
    """Of each channel of signed sites; ∞ before any image."""
    fired: NDArray[np.int64]
    """For each channel, the number of images in which it was active anywhere."""
    scalars: Moments
    """Of each of `Scalars.names`."""
    histograms: NDArray[np.int64]
    """Of the same: scalars × `BINS`."""
    spreads: tuple[Spread, ...]
    """By layer."""
    judged: int = 0
    """Images that were compared with the calibration set of the baseline."""
    unusual: int = 0
    """Of those, the ones with a combined p-value below `UNUSUAL`."""

    def merged(self, other: Self) -> Self:
        """Both sets of images together; windows of the same model only."""
        return type(self)(
            images=self.images + other.images,
            predicted=self.predicted + other.predicted,
            moments=_sharing_counts({name: m.merged(other.moments[name]) for name, m in self.moments.items()}),
            maximum=np.maximum(self.maximum, other.maximum),
            minimum=np.minimum(self.minimum, other.minimum),
            fired=self.fired + other.fired,
            scalars=self.scalars.merged(other.scalars),
            histograms=self.histograms + other.histograms,
            spreads=spread.merged(self.spreads, other.spreads),
            judged=self.judged + other.judged,
            unusual=self.unusual + other.unusual,
        )

    @property
    def not_finite(self) -> NDArray[np.int64]:
        """For each channel, the number of images in which it put out an infinity or a NaN."""
        return self.images - self.moments[layout.MEAN].count

    def to_bytes(self) -> bytes:
        """Compressed, without pickled objects."""
        return pack(self.arrays())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """To store it: arrays by name."""
        stored: dict[str, NDArray[Any]] = {
            "images": np.array(self.images, np.int64),
            "predicted": self.predicted,
            "maximum": self.maximum,
            "minimum": self.minimum,
            "fired": self.fired,
            **self.scalars.arrays("scalars"),
            # Nearly all bins are empty.
            "histograms/index": np.flatnonzero(self.histograms),
            "histograms/counts": self.histograms[self.histograms > 0],
            **spread.arrays(self.spreads),
            "judged": np.array(self.judged, np.int64),
            "unusual": np.array(self.unusual, np.int64),
        }
        for name, moments in self.moments.items():
            stored |= with_prefix("moments", moments.arrays(name))
        return stored

    @classmethod
    def from_arrays(cls, stored: Mapping[str, NDArray[Any]]) -> Self:
        """What `arrays` gave, of whichever model; raises `ValueError` for anything else."""
        try:
            return cls._restored(stored)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"the window cannot be read ({type(error).__name__}: {error})") from error

    @classmethod
    def _restored(cls, stored: Mapping[str, NDArray[Any]]) -> Self:
        scalars = Moments.from_arrays("scalars", stored)
        counts = np.zeros(len(scalars.count) * BINS, np.int64)
        if (stored["histograms/index"] < 0).any():
            raise IndexError("a histogram has counts in a bin before the first")
        counts[stored["histograms/index"]] = stored["histograms/counts"]
        moments = below("moments", stored)
        names = [name.removesuffix("/count") for name in moments if name.endswith("/count")]
        return cls(
            images=int(stored["images"]),
            predicted=stored["predicted"],
            moments=_sharing_counts({name: Moments.from_arrays(name, moments) for name in names}),
            maximum=stored["maximum"],
            minimum=stored["minimum"],
            fired=stored["fired"],
            scalars=scalars,
            histograms=counts.reshape(-1, BINS),
            spreads=spread.from_arrays(stored),
            judged=int(stored["judged"]),
            unusual=int(stored["unusual"]),
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read what `to_bytes` wrote, of whichever model; raises `ValueError` for anything else."""
        return cls.from_arrays(unpack(content, "the window"))


class WindowReader:
    """Makes windows of one model: from the outputs of instrumented runs, or from what was stored.

    With `outliers`, those of the model's baseline, every image is also judged alone.
    """

    def __init__(self, manifest: ModelManifest, outliers: OutlierModel | None = None) -> None:
        self._manifest = manifest
        self._outliers = outliers
        self._reader = StatisticsReader(manifest)
        self._scalars = Scalars(manifest)
        self._classes = len(manifest.class_names)
        self._logits = manifest.logits.name
        self._widths = layout.output_widths(manifest)
        self._averaged = [name for name in self._widths if name not in (layout.MAXIMUM, layout.MINIMUM)]
        self._layers = list(layout.site_columns(layout.MEAN, manifest).values())
        self.names = self._scalars.names

    def empty(self) -> Window:
        """The window of no image: merging it changes nothing."""
        return Window(
            images=0,
            predicted=np.zeros(self._classes, np.int64),
            moments=_sharing_counts({name: Moments.empty(self._widths[name]) for name in self._averaged}),
            maximum=np.full(self._widths[layout.MAXIMUM], -np.inf),
            minimum=np.full(self._widths.get(layout.MINIMUM, 0), np.inf),
            fired=np.zeros(self._widths[layout.ACTIVE], np.int64),
            scalars=Moments.empty(len(self.names)),
            histograms=np.zeros((len(self.names), BINS), np.int64),
            spreads=tuple(Spread.empty(columns.stop - columns.start) for columns in self._layers),
        )

    def of(self, outputs: Outputs) -> Window:
        """The window of one batch, as an instrumented run put it out: logits and all statistics outputs."""
        measured = self._reader.measured(outputs)
        logits = outputs[self._logits]
        classes = logits[np.isfinite(logits).all(1)].argmax(1)
        scalars = self._scalars.of(outputs)
        means = measured[layout.MEAN]
        return Window(
            images=len(logits),
            predicted=np.bincount(classes, minlength=self._classes).astype(np.int64),
            moments=_sharing_counts({name: Moments.of(measured.get(name, outputs[name])) for name in self._averaged}),
            maximum=_extreme(np.fmax, measured[layout.MAXIMUM], -np.inf),
            minimum=_extreme(np.fmin, measured[layout.MINIMUM], np.inf) if layout.MINIMUM in measured else np.empty(0),
            fired=(measured[layout.ACTIVE] > 0).sum(0, dtype=np.int64),
            scalars=Moments.of(scalars),
            histograms=histograms(scalars),
            spreads=tuple(Spread.of(means[:, columns]) for columns in self._layers),
            judged=0 if self._outliers is None else len(logits),
            unusual=self._unusual(outputs),
        )

    def _unusual(self, outputs: Outputs) -> int:
        if self._outliers is None:
            return 0
        return int((self._outliers.combined(Features.of(outputs, self._manifest)) < UNUSUAL).sum())

    def from_bytes(self, content: bytes) -> Window:
        """Read what `Window.to_bytes` wrote; raises `ValueError` for anything else, another model's too."""
        return self.from_arrays(unpack(content, "the window"))

    def from_arrays(self, stored: Mapping[str, NDArray[Any]]) -> Window:
        """Read what `Window.arrays` gave; raises `ValueError` when they are not of a window of this model."""
        expected = self.empty().arrays()
        if different := expected.keys() ^ stored.keys():
            raise ValueError(f"the window is of another model: {', '.join(sorted(different))} only in one of them")
        for name, values in expected.items():
            found = stored[name]
            if found.dtype != values.dtype or (not name.startswith("histograms/") and found.shape != values.shape):
                raise ValueError(
                    f"the window is of another model: {name} has shape {found.shape} of {found.dtype}, "
                    f"expected {values.shape} of {values.dtype}"
                )
        if not np.array_equal(stored["spread/size"], expected["spread/size"]):
            raise ValueError("the window is of another model: its layers have other widths")
        return Window.from_arrays(stored)

    def merge(self, windows: list[Window]) -> Window:
        """All of them together."""
        return reduce(Window.merged, windows, self.empty())


def _sharing_counts(moments: dict[str, Moments]) -> dict[str, Moments]:
    """The same, equal counts kept once: they differ only where some sites lack an output."""
    counts = moments[layout.MEAN].count
    return {name: replace(m, count=counts) if np.array_equal(m.count, counts) else m for name, m in moments.items()}


def _extreme(reduction: np.ufunc, values: NDArray[np.float32], start: float) -> NDArray[np.float64]:
    """Over the images, leaving out NaN."""
    extremes: NDArray[np.float32] = reduction.reduce(values, axis=0, initial=np.float32(start))
    return extremes.astype(np.float64)
