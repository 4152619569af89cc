"""Merged moments equal the moments of everything at once, however the samples were split and ordered."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from models.statistics.moments import Moments

Samples = NDArray[np.float32]

COLUMNS = 3
values = st.floats(-1e4, 1e4, width=32)
broken = st.sampled_from([np.nan, np.inf, -np.inf])
tables = st.integers(1, 40).flatmap(lambda rows: arrays(np.float32, (rows, COLUMNS), elements=values))


def merged(parts: list[Samples]) -> Moments:
    moments = [Moments.of(part) for part in parts]
    total = moments[0]
    for other in moments[1:]:
        total = total.merged(other)
    return total


def merged_as_a_tree(parts: list[Samples]) -> Moments:
    if len(parts) == 1:
        return Moments.of(parts[0])
    half = len(parts) // 2
    return merged_as_a_tree(parts[half:]).merged(merged_as_a_tree(parts[:half]))


def assert_describes(moments: Moments, samples: Samples) -> None:
    """Against two-pass formulas over all samples, in float64; what cancels is bounded by the samples' scale."""
    everything = samples.astype(np.float64)
    scale = 1 + np.abs(everything).max()
    assert moments.count.tolist() == [len(everything)] * everything.shape[1]
    assert moments.mean.dtype == moments.m2.dtype == np.float64
    np.testing.assert_allclose(moments.mean, everything.sum(0) / len(everything), rtol=1e-12, atol=1e-13 * scale)
    expected = ((everything - everything.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(moments.m2, expected, rtol=1e-11, atol=1e-12 * scale**2)


@settings(deadline=None, max_examples=200)
@given(samples=tables, data=st.data())
def test_any_partition_in_any_order(samples: Samples, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(1, max(1, len(samples) - 1)), unique=True, max_size=8))
    parts = [part for part in np.split(samples, sorted(cuts)) if len(part)]
    order = data.draw(st.permutations(range(len(parts))))
    shuffled = [parts[index] for index in order]
    assert_describes(merged(shuffled), samples)
    assert_describes(merged_as_a_tree(shuffled), samples)


@settings(deadline=None, max_examples=50)
@given(left=tables, right=tables)
def test_merging_leaves_its_operands_alone(left: Samples, right: Samples) -> None:
    a, b = Moments.of(left), Moments.of(right)
    a.merged(b)
    assert_describes(a, left)
    assert_describes(b, right)


def test_a_large_offset_costs_no_precision() -> None:
    """The sum of squares would lose every digit here; centred moments do not."""
    samples = (1e6 + np.random.default_rng(0).normal(0, 1, (3000, 2))).astype(np.float64)
    total = merged(np.array_split(samples, 100))
    np.testing.assert_allclose(total.variance, samples.var(0, ddof=1), rtol=1e-9)


@pytest.mark.parametrize("rows", [2, 3, 50])
def test_variance_is_unbiased(rows: int) -> None:
    samples = np.random.default_rng(rows).normal(3, 2, (rows, 4))
    np.testing.assert_allclose(Moments.of(samples).variance, np.var(samples, axis=0, ddof=1), rtol=1e-12)


def test_one_sample_has_no_variance() -> None:
    moments = Moments.of(np.array([[1.0, 2.0]]))
    assert np.isnan(moments.variance).all()
    assert moments.mean.tolist() == [1.0, 2.0]


@settings(deadline=None, max_examples=200)
@given(
    samples=st.integers(1, 20).flatmap(lambda rows: arrays(np.float32, (rows, COLUMNS), elements=values | broken)),
    data=st.data(),
)
def test_what_is_not_finite_is_left_out_of_its_column(samples: Samples, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(samples)))
    moments = merged([samples[cut:], samples[:cut]])
    for column in range(COLUMNS):
        rest = [float(value) for value in samples[:, column] if np.isfinite(value)]
        mean = sum(rest) / len(rest) if rest else 0.0
        scale = 1 + max(map(abs, rest), default=0)
        assert moments.count[column] == len(rest)
        assert moments.mean[column] == pytest.approx(mean, rel=1e-11, abs=1e-12 * scale)
        m2 = sum((value - mean) ** 2 for value in rest)
        assert moments.m2[column] == pytest.approx(m2, rel=1e-11, abs=1e-12 * scale**2)
        assert moments.total[column] == pytest.approx(sum(rest), rel=1e-11, abs=1e-11 * scale)


def test_columns_without_samples_merge_with_any() -> None:
    nothing = Moments.of(np.full((3, 2), np.nan))
    assert nothing.count.tolist() == nothing.mean.tolist() == nothing.m2.tolist() == [0, 0]
    samples = np.array([[1.0, 5.0], [2.0, 9.0]])
    for both in (
        nothing.merged(Moments.of(samples)),
        Moments.of(samples).merged(nothing),
        merged([samples[:0], samples]),
    ):
        assert_describes(both, samples.astype(np.float32))


def test_round_trip_through_arrays() -> None:
    moments = Moments.of(np.random.default_rng(0).normal(0, 1, (5, 3)))
    stored = moments.arrays("kind")
    restored = Moments.from_arrays("kind", stored)
    assert restored.count.tolist() == moments.count.tolist()
    assert restored.mean.tolist() == moments.mean.tolist()
    assert restored.m2.tolist() == moments.m2.tolist()
    with pytest.raises(KeyError):
        Moments.from_arrays("another", stored)
