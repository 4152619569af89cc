"""The learning rate, against its formula written out."""

import numpy as np
import pytest

from training.schedule import warmed_cosine


@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (7, 3), (50, 0), (5, 4), (1, 0), (2, 1)])
@pytest.mark.parametrize("peak", [0.1, 3.0])
def test_formula(steps: int, warmup: int, peak: float) -> None:
    rates = [warmed_cosine(step, steps, warmup, peak) for step in range(steps)]
    rise = peak * np.arange(1, warmup + 1) / max(warmup, 1)
    fall = peak * np.cos(np.pi / 2 * np.arange(steps - warmup) / (steps - warmup)) ** 2
    np.testing.assert_allclose(rates, np.concatenate([rise, fall]), rtol=1e-12)


def test_rises_to_the_peak_and_falls_to_almost_nothing() -> None:
    rates = np.array([warmed_cosine(step, 1000, 100, 0.2) for step in range(1000)])
    assert rates.max() == 0.2
    assert np.all(np.diff(rates[:100]) > 0)
    assert np.all(np.diff(rates[100:]) < 0)
    assert 0 < rates[-1] < 1e-5
    assert warmed_cosine(1000, 1000, 100, 0.2) == pytest.approx(0, abs=1e-15)
