"""What is kept of single images stays within its limit, and is spread evenly over all of them."""

import numpy as np
import pytest

from models.statistics.features import FEWEST, Features, ThinnedFeatures


def images(first: int, count: int) -> Features:
    numbers = np.arange(first, first + count, dtype=np.float32)
    return Features(np.repeat(numbers[:, None], 10, 1), np.repeat(numbers[:, None], 6, 1))


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
@pytest.mark.parametrize("limit", [1000, 64 * 150, 64 * 5000])
def test_every_kth_image_within_the_limit(batch: int, limit: int) -> None:
    kept = ThinnedFeatures(limit)
    for first in range(0, 1000, batch):
        kept.add(images(first, min(batch, 1000 - first)))
    numbers = kept.features.means[:, 0].astype(int)
    (step,) = set(np.diff(numbers).tolist())
    assert numbers.tolist() == list(range(0, 1000, step))
    assert step & (step - 1) == 0, "a power of two"
    assert kept.features.logits[:, 0].tolist() == numbers.tolist()
    # An image takes 64 bytes, and twice as many images would not have fitted.
    assert len(numbers) * 64 <= limit
    assert step == 1 or len(numbers) * 2 * 64 > limit - 128


def test_a_few_are_kept_whatever_they_take() -> None:
    kept = ThinnedFeatures(1)
    for first in range(100):
        kept.add(images(first, 1))
    assert FEWEST / 2 <= len(kept.features.logits) <= FEWEST
