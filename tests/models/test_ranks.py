"""p-values by their definition, and their distribution for scores of one kind."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.statistics.ranks import p_values

scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@given(calibration=scores, seen=st.lists(st.integers(-4, 4).map(float) | st.just(float("nan")), min_size=1))
def test_definition_with_ties(calibration: list[float], seen: list[float]) -> None:
    values = p_values(np.array(seen), np.sort(calibration))
    for value, score in zip(values.tolist(), seen, strict=True):
        above = sum(other >= score for other in calibration)  # none for NaN
        assert value == float(Fraction(1 + above, len(calibration) + 1))


def test_infinities() -> None:
    calibration = np.array([0.0, 1.0, 2.0])
    assert p_values(np.array([np.inf, -np.inf, np.nan]), calibration).tolist() == [0.25, 1.0, 0.25]


def test_uniform_for_exchangeable_scores() -> None:
    """Every rank among n + 1 is as likely: 4000 draws, n = 19; the bound holds in all but one of 10⁴ trials."""
    draws = np.random.default_rng(0).exponential(1, (4000, 20))
    values = np.array([p_values(row[:1], np.sort(row[1:]))[0] for row in draws])
    shares = np.bincount(np.rint(values * 20).astype(int), minlength=21)[1:] / 4000
    assert np.abs(shares - 1 / 20).max() < 4.5 * (0.05 * 0.95 / 4000) ** 0.5
