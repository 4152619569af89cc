"""Everything that is tested together: all scalars of all layers, and the share of each predicted class.

The largest deviation of the family is compared with the distribution of that same maximum (`models.diagnosis.null`), so
that however many layers a network has, the rate of false alarms is that of one test.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.diagnosis.null import LARGEST_RESAMPLE, Budget, Matrix, Null, baseline_errors, window_deviations
from models.diagnosis.thresholds import Thresholds
from models.statistics.baseline import Baseline
from models.statistics.scalars import Scalar
from models.statistics.window import Window

Values = NDArray[np.float64]

CLASS = "class"
"""The part under which the share of a predicted class is tested."""
VARIED = 0.01
"""Share of the baseline's images that must differ from its median: of what hardly ever varies no σ is known."""
GROUPED = 0.02
"""Least share of the baseline's images in a group of predicted classes."""
EFFECTIVE_IMAGES = 200
"""Weighted baseline images that must be left to speak for another class mix."""


@dataclass(frozen=True)
class Shift:
    """How far the means of a window are from a reference, by member of the family."""

    now: Values
    reference: Values
    sigma: Values
    """Of single images."""
    z: Values
    """(now − reference) / (σ √(1/n + 1/m)); 0 for what was not measured."""

    @property
    def effect(self) -> Values:
        """|Δ mean| / σ, a lower bound of the Wasserstein distance in σ."""
        return np.abs(self.now - self.reference) / self.sigma


class Family:
    """The tests of one model version. What is learned from the baseline is kept, by the size of the window."""

    def __init__(self, baseline: Baseline, thresholds: Thresholds) -> None:
        self._baseline = baseline
        self._budget = Budget(
            rate=thresholds.window_seconds / (3600 * thresholds.expected_hours_between_false_alarms),
            needed=thresholds.confirmations,
            of=thresholds.confirmation_windows,
        )
        self._group = class_groups(baseline.window.predicted)
        shares = np.eye(self._group.max() + 1)[self._group[baseline.predicted]]
        samples = np.concatenate([baseline.samples.astype(np.float64), shares], axis=1)
        samples = np.where(np.isfinite(samples), samples, np.nan)
        with np.errstate(all="ignore"):
            missing = np.isnan(samples).mean(0)
            samples = np.where(np.isnan(samples), np.nan_to_num(_nanmean(samples)), samples)
        spread = samples.std(0)
        moved = (samples != np.median(samples, 0)).mean(0) >= VARIED
        # Rounding is no variation: a constant summed in float32 differs in its last digits.
        self._tested = np.flatnonzero(moved & (missing <= VARIED) & (spread > 1e-5 * np.abs(samples).mean(0)))
        self._samples = samples[:, self._tested]
        everything = (*baseline.names, *(Scalar(CLASS, str(group)) for group in range(shares.shape[1])))
        self.names: tuple[Scalar, ...] = tuple(everything[column] for column in self._tested)
        self.is_class = self._tested >= len(baseline.names)
        """Of each member, whether it is the share of predicted classes."""
        self.columns = self._tested[~self.is_class]
        """Of the members that are scalars, and come first: the column of each in a window."""
        self._standardised: Matrix = ((self._samples - self._samples.mean(0)) / self._samples.std(0)).astype(np.float32)
        self._nulls: dict[int, Null] = {}

    @property
    def images(self) -> int:
        """Baseline images whose scalars are known one by one."""
        return len(self._samples)

    def shift(self, window: Window) -> Shift:
        """The window against the whole baseline."""
        now, now_count, _ = self._means(window)
        before, before_count, variance = self._means(self._baseline.window)
        return self._shift(now, now_count, before, before_count, np.sqrt(variance))

    def reweighted(self, window: Window) -> Shift | None:
        """The window against the baseline as it would be with the window's predicted classes.

        A baseline image of predicted class k weighs share_window(k)/share_baseline(k); the images are then as good as
        (Σw)²/Σw² equal ones. None when fewer than `EFFECTIVE_IMAGES` are left: the classes of this traffic were rare.
        """
        groups = self._group[self._baseline.predicted]
        seen, known = self._by_group(window), np.bincount(groups, minlength=self._group.max() + 1)
        weights = (seen / np.maximum(known, 1))[groups]
        total = weights.sum()
        if not total or (effective := total**2 / (weights**2).sum()) < EFFECTIVE_IMAGES:
            return None
        weights /= total
        mean = weights @ self._samples
        sigma = np.sqrt(weights @ (self._samples - mean) ** 2)
        now, count, _ = self._means(window)
        return self._shift(now, count, mean, np.full(len(mean), effective), sigma)

    def threshold(self, images: int) -> float:
        """The |z| from which a member of a window of n images counts, by the budget of false alarms."""
        return self._null(images).threshold

    def p_value(self, z: float, images: int) -> float:
        """The chance that anything in the family deviates this far, if nothing has changed."""
        return self._null(images).p_value(abs(z))

    def _null(self, images: int) -> Null:
        # Skewed scalars are more skewed in the smaller window, and the baseline's error matters more for the larger
        # one: the power of 2 below is taken for the one and that above for the other.
        size = 1 << max(4, images.bit_length() - 1)
        if size not in self._nulls:
            windows = window_deviations(self._standardised, min(size, LARGEST_RESAMPLE))
            shared = 2 * size / (2 * size + self._baseline.images)
            self._nulls[size] = Null.of(windows, baseline_errors(self._standardised), shared, self._budget)
        return self._nulls[size]

    def _means(self, window: Window) -> tuple[Values, Values, Values]:
        """Mean, count and variance of every member."""
        images = self._by_group(window)
        shares = images / max(1.0, images.sum())
        means = np.concatenate([window.scalars.mean, shares])
        counts = np.concatenate([window.scalars.count, np.full(len(shares), images.sum())])
        variances = np.concatenate([window.scalars.variance, shares * (1 - shares)])
        return means[self._tested], counts[self._tested].astype(np.float64), variances[self._tested]

    def _by_group(self, window: Window) -> Values:
        """Images by group of predicted classes."""
        return np.bincount(self._group, window.predicted).astype(np.float64)

    def _shift(self, now: Values, count: Values, before: Values, before_count: Values, sigma: Values) -> Shift:
        measured = (count > 0) & (before_count > 0) & (sigma > 0)
        sigma = np.where(measured, sigma, np.inf)
        error = np.sqrt(1 / np.maximum(count, 1) + 1 / np.maximum(before_count, 1))
        return Shift(now, before, sigma, (now - before) / sigma / error)


def class_groups(predicted: NDArray[np.int64]) -> NDArray[np.intp]:
    """The group of each class: neighbours together until they have `GROUPED` of the baseline's images.

    Ten classes are ten groups; of a thousand, each too rare to be tested, neighbours are tested as one.
    """
    groups, filled, group = np.zeros(len(predicted), np.intp), 0, 0
    enough = GROUPED * predicted.sum()
    for index, images in enumerate(predicted.tolist()):
        groups[index] = group
        filled += images
        if filled >= enough:
            group, filled = group + 1, 0
    # What is left over joins the last full group.
    return np.minimum(groups, max(0, group - 1))


def _nanmean(samples: Values) -> Values:
    finite = ~np.isnan(samples)
    return np.asarray(np.where(finite, samples, 0).sum(0) / np.maximum(finite.sum(0), 1))
