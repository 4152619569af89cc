"""The family-wise test: its level by simulation, its tail against known distributions, its budget by brute force."""

import itertools
import math

import numpy as np
import pytest

from models.diagnosis.null import Budget, Null, baseline_errors, onset_rate, window_deviations
from models.diagnosis.tail import Tail


def _images(count: int, generator: np.random.Generator) -> np.ndarray:
    """Dependent scalars, half of them skewed."""
    common = generator.standard_normal((count, 4))
    scalars = common @ np.linspace(-1, 1, 4 * 24).reshape(4, 24) + generator.standard_normal((count, 24))
    scalars[:, ::2] = np.exp(scalars[:, ::2] / 3)
    return scalars


@pytest.mark.parametrize(("needed", "of"), [(1, 1), (1, 3), (2, 3), (3, 5), (5, 5)])
def test_the_rate_of_onsets_is_that_of_every_sequence_of_windows(needed: int, of: int) -> None:
    p = 0.12
    rate = sum(
        math.prod(p if bit else 1 - p for bit in bits)
        for bits in itertools.product((0, 1), repeat=of + 1)
        if sum(bits[1:]) >= needed and sum(bits[:-1]) < needed
    )
    assert onset_rate(np.array([p]), needed, of)[0] == pytest.approx(rate)


def test_windows_alarm_at_the_promised_rate_over_baselines_of_their_own() -> None:
    """Each baseline is drawn anew, and watches a run of windows: exchangeable images, one in 50 may begin an alarm."""
    generator = np.random.default_rng(5)
    n, m, windows, baselines = 128, 500, 60, 120
    budget = Budget(rate=1 / 50, needed=3, of=5)
    first = _images(2000, generator)
    standardised = ((first - first.mean(0)) / first.std(0)).astype(np.float32)
    null = Null.of(window_deviations(standardised, n), baseline_errors(standardised), n / (n + m), budget)
    onsets, crossings = 0, []
    for _ in range(baselines):
        known = _images(m, generator)
        seen = _images(n * windows, generator).reshape(windows, n, -1).mean(1)
        largest = np.abs((seen - known.mean(0)) / known.std(0) / math.sqrt(1 / n + 1 / m)).max(1)
        crossed = largest >= null.threshold
        recent = np.array([crossed[k : k + 5].sum() >= 3 for k in range(windows - 4)])
        onsets += int((recent[1:] & ~recent[:-1]).sum())
        crossings.append(crossed.mean())
    trials = baselines * (windows - 5)
    expected = trials * budget.rate
    # Onsets follow each other at five windows at the soonest and cluster by baseline: twice the binomial deviation.
    assert abs(onsets - expected) < 4 * 2 * math.sqrt(expected), (onsets, expected)
    assert np.mean(crossings) == pytest.approx(null.p_value(null.threshold), rel=0.25)


def test_the_largest_of_independent_normal_deviations_has_its_known_quantiles() -> None:
    standardised = np.random.default_rng(2).standard_normal((2000, 30)).astype(np.float32)
    standardised = (standardised - standardised.mean(0)) / standardised.std(0)
    windows, errors = window_deviations(standardised, 1024), baseline_errors(standardised)
    null = Null.of(windows, errors, 0.1, Budget(rate=1e-3, needed=1, of=1))
    for t in (2.5, 3.0, 3.5):
        exact = 1 - math.erf(t / math.sqrt(2)) ** 30
        assert null.p_value(t) == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("t", [4.5, 5.0, 5.5])
def test_the_tail_is_extrapolated_beyond_the_samples(t: float) -> None:
    """The largest of 30 normal deviations at levels that 10,000 samples cannot show (2·10⁻⁴ to 10⁻⁶)."""
    samples = np.abs(np.random.default_rng(3).standard_normal((40, 10_000, 30), np.float32)).max(2)
    exact = 1 - math.erf(t / math.sqrt(2)) ** 30
    estimated = float(Tail.fitted(samples).beyond(np.array([t])).mean())
    assert exact / 1.5 < estimated < exact * 4, "near, and rather too large than too small"


def test_a_heavy_tail_is_seen_as_one() -> None:
    uniform = np.random.default_rng(4).random((20, 10_000))
    squares = uniform**-0.3
    tail = Tail.fitted(np.sqrt(squares).astype(np.float32))
    assert tail.shape == pytest.approx(0.3, abs=0.06)
    t = math.sqrt(1e-6**-0.3)
    assert tail.beyond(np.array([t])).mean() == pytest.approx(1e-6, rel=0.9)


def test_a_rarer_alarm_needs_a_larger_deviation() -> None:
    standardised = _images(1000, np.random.default_rng(1)).astype(np.float32)
    standardised = (standardised - standardised.mean(0)) / standardised.std(0)
    windows, errors = window_deviations(standardised, 256), baseline_errors(standardised)
    thresholds = [Null.of(windows, errors, 0.2, Budget(rate, 3, 5)).threshold for rate in (1e-2, 1e-4, 1e-8, 1e-14)]
    assert thresholds == sorted(thresholds)
    assert len(set(thresholds)) == 4
    shared = [Null.of(windows, errors, s, Budget(1e-4, 3, 5)).threshold for s in (0.01, 0.3, 0.6)]
    assert shared == sorted(shared), "what all windows have in common makes them alarm together"
