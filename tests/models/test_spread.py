"""The spread of channel means: merged as computed at once, its rank from eigenvalues."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.statistics import spread
from models.statistics.spread import DIMENSIONS, Spread, projected, signs

WIDTHS = (3, DIMENSIONS, 65, 200)
FIRST_SIGNS = "+-+-+++++--+++------++++"


def samples(images: int, channels: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixing = random.normal(0, 1, (channels, channels)) / channels**0.5
    return (5 + random.normal(0, 1, (images, channels)) @ mixing).astype(np.float32)


@pytest.mark.parametrize("channels", WIDTHS)
def test_projection_adds_channels_with_their_signs(channels: int) -> None:
    means = samples(4, channels)
    expected = np.zeros((4, min(channels, DIMENSIONS)))
    for channel in range(channels):
        sign = signs(channels)[channel] if channels > DIMENSIONS else 1
        expected[:, channel % DIMENSIONS] += sign * means[:, channel].astype(np.float64)
    np.testing.assert_allclose(projected(means), expected, rtol=1e-12, atol=1e-12)


def test_signs_are_random_and_always_the_same() -> None:
    assert set(signs(2048).tolist()) == {-1.0, 1.0}
    # A fair coin's sum over 2048 throws has the standard deviation 45.
    assert abs(signs(2048).sum()) < 4 * 45
    # Stored windows hold sums of these very signs: another stream would silently spoil merging with them.
    assert "".join("+-"[sign < 0] for sign in signs(65)[:24].tolist()) == FIRST_SIGNS


@settings(deadline=None, max_examples=60)
@given(data=st.data(), channels=st.sampled_from(WIDTHS))
def test_any_split_in_any_order(data: st.DataObject, channels: int) -> None:
    images = data.draw(st.integers(1, 30))
    means = samples(images, channels)
    for row in data.draw(st.sets(st.integers(0, images - 1), max_size=4)):
        means[row, row % channels] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    cuts = sorted(data.draw(st.lists(st.integers(0, images), max_size=5)))
    parts = data.draw(st.permutations(np.split(means, cuts)))
    total = Spread.empty(channels)
    for part in parts:
        total = Spread.of(part).merged(total)
    (total,) = spread.from_arrays(spread.arrays([total]))
    z = projected(means[np.isfinite(means).all(1)])
    assert total.count == len(z)
    if len(z):
        np.testing.assert_allclose(total.mean, z.mean(0), rtol=1e-11, atol=1e-12)
        centred = z - z.mean(0)
        np.testing.assert_allclose(total.scatter, centred.T @ centred, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", WIDTHS)
def test_rank_from_eigenvalues(channels: int) -> None:
    means = samples(150, channels)
    eigenvalues = np.linalg.eigvalsh(np.cov(projected(means).T))
    assert Spread.of(means).rank == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-9)


@pytest.mark.parametrize("channels", WIDTHS)
def test_rank_of_images_along_one_line_is_one(channels: int) -> None:
    random = np.random.default_rng(0)
    means = np.outer(random.normal(0, 1, 50), random.normal(0, 1, channels))
    assert Spread.of(means).rank == pytest.approx(1)


def test_projection_keeps_the_rank_of_a_wide_layer() -> None:
    """8 equal directions among 512 channels: of 64 dimensions they stay nearly orthogonal."""
    random = np.random.default_rng(0)
    directions = np.linalg.qr(random.normal(0, 1, (512, 8)))[0]
    means = random.normal(0, 1, (4000, 8)) @ directions.T
    assert 6.5 < Spread.of(means).rank <= 8


@pytest.mark.parametrize("means", [np.ones((1, 3)), np.ones((5, 3)), np.full((5, 3), np.nan), np.empty((0, 3))])
def test_rank_of_what_does_not_vary(means: np.ndarray) -> None:
    assert np.isnan(Spread.of(means).rank)


def test_round_trip_of_several_layers_and_what_does_not_fit() -> None:
    spreads = (Spread.of(samples(9, 3)), Spread.of(samples(7, 100)))
    stored = spread.arrays(spreads)
    for before, after in zip(spreads, spread.from_arrays(stored), strict=True):
        assert after.count == before.count
        assert after.mean.tolist() == before.mean.tolist()
        assert after.scatter.tolist() == before.scatter.tolist()
    with pytest.raises(ValueError, match=r"spread/mean has shape \(66,\), expected \(67,\)"):
        spread.from_arrays(stored | {"spread/mean": stored["spread/mean"][1:]})
    with pytest.raises(ValueError, match="spread/scatter has shape"):
        spread.from_arrays(stored | {"spread/scatter": stored["spread/scatter"][1:]})
