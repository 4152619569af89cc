"""The window against the baseline, with what the class mix explains set apart from what it does not."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.diagnosis.family import Family, Shift
from models.diagnosis.thresholds import Thresholds
from models.statistics.baseline import Baseline
from models.statistics.histograms import BINS_PER_OCTAVE, wasserstein
from models.statistics.window import Window

BIN_WIDTH = 2 ** (1 / BINS_PER_OCTAVE) - 1
"""Of a value."""


@dataclass(frozen=True)
class Comparison:
    """Every member of the family, judged by a reference that has the window's class mix where that mix has changed."""

    threshold: float
    """|z| from which a member counts."""
    mix_changed: bool
    mix_effect: float
    """½ Σ |Δ share| over the predicted classes."""
    separated: bool
    """Whether the reference has the window's class mix; always true where the mix has not changed."""
    plain: Shift
    """Against the baseline as it is."""
    judged: Shift
    """Against the reference."""
    distances: NDArray[np.float64]
    """Effect in σ of each member that is a scalar, against the reference."""

    @property
    def significant(self) -> NDArray[np.bool_]:
        """Members that are scalars and deviate beyond the threshold."""
        return np.abs(self.judged.z[: len(self.distances)]) >= self.threshold

    @property
    def reweighted(self) -> bool:
        """Whether the reference is not simply the baseline."""
        return self.mix_changed and self.separated


def compare(window: Window, baseline: Baseline, family: Family, thresholds: Thresholds) -> Comparison:
    """Test all members at once; if the class mix has changed, test again with the baseline weighted like the window."""
    threshold = family.threshold(window.images)
    plain = family.shift(window)
    mix_effect = _mix_effect(window, baseline)
    significant = (np.abs(plain.z) >= threshold)[family.is_class].any()
    mix_changed = bool(significant and mix_effect >= thresholds.mix_effect)
    reweighted = family.reweighted(window) if mix_changed else None
    judged = reweighted or plain
    distances = judged.effect[~family.is_class]
    if reweighted is None:
        distances = np.maximum(distances, _wasserstein(window, baseline, family, plain))
    return Comparison(threshold, mix_changed, mix_effect, not mix_changed or bool(reweighted), plain, judged, distances)


def _mix_effect(window: Window, baseline: Baseline) -> float:
    """Total variation: the share of images that would have to change class for the mixes to be equal."""
    now, before = (seen.predicted / max(1, seen.predicted.sum()) for seen in (window, baseline.window))
    return float(np.abs(now - before).sum() / 2)


def _wasserstein(window: Window, baseline: Baseline, family: Family, shift: Shift) -> NDArray[np.float64]:
    """W₁ of the histograms in σ, where their bins are finer than σ; 0 elsewhere: only the mean is known well there."""
    known, sigma = (values[~family.is_class] for values in (shift.reference, shift.sigma))
    distance = wasserstein(window.histograms[family.columns], baseline.window.histograms[family.columns])
    return np.where(BIN_WIDTH * np.abs(known) <= sigma, np.nan_to_num(distance) / sigma, 0.0)
