"""Bins by their definition in exact arithmetic, distances by brute-force integration over the line."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.statistics.histograms import BINS, BINS_PER_SIGN, ZERO, bins, histograms, midpoints, quantile, wasserstein

SMALLEST, LARGEST = 2.0**-16, 2.0**16
finite = st.floats(allow_nan=False, allow_infinity=False)
several_counts = arrays(np.int64, BINS, elements=st.integers(0, 3)).filter(lambda counts: counts.sum() > 0)


def bin_of(value: float) -> int:
    """The definition: the smallest i with |x|·2^16 ≤ 2^(i/4), that is (|x|·2^16)^4 ≤ 2^i, without rounding."""
    fourth = (abs(Fraction(value)) * 2**16) ** 4
    index = 0
    while index < BINS_PER_SIGN and fourth > 2**index:
        index += 1
    return ZERO + index if value > 0 else ZERO - index


@settings(deadline=None, max_examples=300)
@given(value=finite | st.floats(-100, 100) | st.floats(-1e-3, 1e-3))
def test_bin_is_that_of_the_definition(value: float) -> None:
    assert bins(np.array([value])).tolist() == [bin_of(value)]
    assert bins(np.array([-value])).tolist() == [2 * ZERO - bin_of(value)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, ZERO),
        (-0.0, ZERO),
        (5e-324, ZERO),
        (-5e-324, ZERO),
        (SMALLEST, ZERO),
        (-SMALLEST, ZERO),
        (np.nextafter(SMALLEST, 1), ZERO + 1),
        (-np.nextafter(SMALLEST, 1), ZERO - 1),
        (1.0, ZERO + 64),
        (np.nextafter(1, 2), ZERO + 65),
        (2.0, ZERO + 68),
        (LARGEST, BINS - 1),
        (np.nextafter(LARGEST, np.inf), BINS - 1),
        (np.finfo(np.float64).max, BINS - 1),
        (-np.finfo(np.float64).max, 0),
    ],
)
def test_edges_and_extremes(value: float, expected: int) -> None:
    assert bins(np.array([value])).tolist() == [expected]


def test_single_precision_falls_into_the_same_bins() -> None:
    values = np.random.default_rng(0).normal(0, 3, 1000).astype(np.float32)
    assert bins(values).tolist() == bins(values.astype(np.float64)).tolist()


def test_midpoints_lie_in_their_bins_and_ascend() -> None:
    middle = midpoints()
    assert bins(middle).tolist() == list(range(BINS))
    assert (np.diff(middle) > 0).all()
    np.testing.assert_allclose(middle[ZERO + 1 :], SMALLEST * 2 ** ((np.arange(BINS_PER_SIGN) + 0.5) / 4), rtol=1e-14)


@settings(deadline=None)
@given(samples=arrays(np.float64, st.tuples(st.integers(0, 12), st.integers(1, 4)), elements=st.floats(width=64)))
def test_counts_by_column_without_what_is_not_finite(samples: np.ndarray) -> None:
    counts = histograms(samples)
    assert counts.shape == (samples.shape[1], BINS)
    for column, values in zip(counts, samples.T, strict=True):
        expected = [0] * BINS
        for value in values.tolist():
            if np.isfinite(value):
                expected[bin_of(value)] += 1
        assert column.tolist() == expected


@settings(deadline=None, max_examples=50)
@given(first=several_counts, second=several_counts)
def test_distance_is_the_integral_between_the_distributions(first: np.ndarray, second: np.ndarray) -> None:
    middle = midpoints().tolist()
    distance = 0.0
    for left, right in pairwise(middle):
        shares = [
            sum(count for count, x in zip(counts.tolist(), middle, strict=True) if x <= left) / counts.sum()
            for counts in (first, second)
        ]
        distance += abs(shares[0] - shares[1]) * (right - left)
    assert wasserstein(first, second) == pytest.approx(distance, rel=1e-9, abs=1e-12)


def test_distance_of_samples_is_that_of_their_order_statistics() -> None:
    """For equally many samples W₁ is the mean distance of the sorted ones; bins are 19 % wide."""
    random = np.random.default_rng(0)
    first, second = random.normal(1, 1, 500), random.normal(4, 2, 500)
    expected = np.abs(np.sort(first) - np.sort(second)).mean()
    counts = histograms(np.column_stack([first, second]))
    assert wasserstein(counts[0], counts[1]) == pytest.approx(expected, rel=0.02)
    assert wasserstein(counts, counts).tolist() == [0, 0]


def test_distance_and_quantile_of_nothing() -> None:
    counts = histograms(np.array([[1.0, np.nan]]))
    assert np.isnan(wasserstein(counts, counts)).tolist() == [False, True]
    assert np.isnan(quantile(counts, 0.5)).tolist() == [False, True]


@pytest.mark.parametrize("q", [0.0, 0.01, 0.25, 0.5, 0.99, 1.0])
def test_quantile_lies_in_the_bin_of_the_ordered_sample(q: float) -> None:
    samples = np.random.default_rng(1).normal(0, 5, (101, 3))
    rank = max(int(np.ceil(q * 101)), 1) - 1
    assert bins(quantile(histograms(samples), q)).tolist() == bins(np.sort(samples, 0)[rank]).tolist()
