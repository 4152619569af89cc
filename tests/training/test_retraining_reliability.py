"""Whether a canary fails more often than the champion."""

import numpy as np
import pytest

from training.retraining.reliability import LEAST, Answering, Requests, excess, unreliable


@pytest.mark.parametrize(
    ("canary", "champion", "bad"),
    [
        ((0, 0), (0, 0), False),
        ((0, LEAST - 1), (1000, 0), False),
        ((0, LEAST), (1000, 0), True),
        ((1000, 15), (10_000, 0), False),
        ((1000, 40), (10_000, 0), True),
        # What fails alike for both says nothing against either.
        ((800, 200), (8000, 2000), False),
        ((1000, 0), (8000, 2000), False),
        ((99, 1), (10_000, 0), False),
    ],
)
def test_what_fails_is_compared(canary: tuple[int, int], champion: tuple[int, int], bad: bool) -> None:
    answering = Answering(Requests(*canary), Requests(*champion))
    assert bool(unreliable(answering, 0.01)) is bad


def test_the_interval_is_as_wide_as_it_says() -> None:
    """Of versions that fail alike, in one of a hundred or fewer the lower end is above what is true."""
    random = np.random.default_rng(0)
    for share in (0.0, 0.01, 0.1):
        for count in (LEAST, 200, 2000):
            drawn = random.binomial((count, 20 * count), share, size=(2000, 2))
            wrong = [
                excess(Answering(Requests(count - one, one), Requests(20 * count - other, other))) > 0
                for one, other in drawn.tolist()
            ]
            assert np.mean(wrong) < 0.02


def test_a_service_that_counts_anew_has_begun_anew() -> None:
    assert Requests(5, 1).since(Requests(3, 0)) == Requests(2, 1)
    assert Requests(5, 0).since(Requests(300, 2)) == Requests(5, 0)
