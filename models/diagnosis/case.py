"""What a rule judges: the window, the baseline, and both cut into layers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.diagnosis.comparison import Comparison, compare
from models.diagnosis.family import Family
from models.diagnosis.thresholds import Thresholds
from models.manifest import ActivationSite, ModelManifest
from models.statistics import layout
from models.statistics.baseline import Baseline
from models.statistics.moments import Moments
from models.statistics.scalars import Scalar
from models.statistics.spread import Spread
from models.statistics.window import Window

LISTED = 32
"""Channels that the evidence of a finding names at most."""


@dataclass(frozen=True)
class Layer:
    """The channels of one layer in one window."""

    moments: dict[str, Moments]
    """By statistics output; only those that the layer has."""
    maximum: NDArray[np.float64]
    fired: NDArray[np.int64]
    spread: Spread

    @property
    def mean(self) -> Moments:
        """Of the channel means m."""
        return self.moments[layout.MEAN]

    @property
    def square(self) -> Moments:
        """Of the channels' mean squares q²."""
        return self.moments[layout.MEAN_SQUARE]

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Channels that put out nothing but zeros in every image."""
        return np.asarray((self.fired == 0) & (self.square.mean == 0) & (self.square.count > 0))

    @property
    def rate(self) -> NDArray[np.float64]:
        """Share of images in which each channel was active; 0 without images."""
        return np.asarray(self.fired / np.maximum(self.mean.count, 1), np.float64)

    @property
    def mostly_finite(self) -> bool:
        """Whether every channel was finite in at least half of the images that it could be in."""
        return bool(self.mean.count.min() * 2 >= self.mean.count.max() > 0)


class Seen(NamedTuple):
    """A layer of the traffic beside the same layer of the baseline."""

    site: ActivationSite
    now: Layer
    before: Layer | None


def layers_of(window: Window, manifest: ModelManifest) -> dict[str, Layer]:
    """The window cut into the layers of its model, by name, in order."""
    columns = {name: layout.site_columns(name, manifest) for name in layout.SITE_OUTPUTS}
    return {
        site.name: Layer(
            moments={
                name: _cut(window.moments[name], places[site.name])
                for name, places in columns.items()
                if site.name in places and name in window.moments
            },
            maximum=window.maximum[columns[layout.MAXIMUM][site.name]],
            fired=window.fired[columns[layout.ACTIVE][site.name]],
            spread=spread,
        )
        for site, spread in zip(manifest.sites, window.spreads, strict=True)
    }


@dataclass(frozen=True)
class Case:
    """One window to be judged."""

    manifest: ModelManifest
    window: Window
    now: dict[str, Layer]
    known: Baseline | None
    before: dict[str, Layer]
    """Of the baseline; empty without one."""
    thresholds: Thresholds
    family: Family | None
    """None without a baseline."""

    @property
    def images(self) -> int:
        """n"""
        return self.window.images

    @property
    def baseline(self) -> Baseline:
        """For rules that are not asked without one."""
        assert self.known is not None
        return self.known

    @cached_property
    def comparison(self) -> Comparison:
        """The family of tests for drift and class mix; only with a baseline."""
        return compare(self.window, self.baseline, self.tests, self.thresholds)

    @property
    def tests(self) -> Family:
        """For rules that are not asked without a baseline."""
        assert self.family is not None
        return self.family

    def layers(self) -> Iterator[Seen]:
        """Every layer that is finite in most images."""
        for site in self.manifest.sites:
            if self.now[site.name].mostly_finite:
                yield Seen(site, self.now[site.name], self.before.get(site.name))

    def scalar(self, part: str, statistic: str) -> tuple[Moments, Moments]:
        """One scalar in the window and in the baseline."""
        column = self.baseline.names.index(Scalar(part, statistic))
        place = slice(column, column + 1)
        return _cut(self.window.scalars, place), _cut(self.baseline.window.scalars, place)


def listed(chosen: NDArray[np.bool_]) -> list[int]:
    """The indices that are true, at most `LISTED`."""
    indices: list[int] = np.flatnonzero(chosen)[:LISTED].tolist()
    return indices


def plural(count: int, one: str, many: str = "") -> str:
    """ "1 image", "2 images"."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def share(value: float) -> str:
    """As a percentage of two digits: "41 %", "0.35 %"."""
    return f"{100 * value:.0f} %" if value >= 0.095 else f"{100 * value:.2g} %"


def joined(names: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _cut(moments: Moments, place: slice) -> Moments:
    return Moments(moments.count[place], moments.mean[place], moments.m2[place])
