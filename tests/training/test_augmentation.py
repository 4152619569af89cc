"""Augmentation against a loop over every pixel, and its statistics."""

import numpy as np
import pytest
import torch
from torch import Tensor

from training.augmentations.crop import augment


def images(count: int, channels: int, height: int, width: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """No zero inside, and no two equal rows or columns: what comes from outside and what is mirrored both show."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(1, 255, (count, channels, height, width), generator=generator).to(dtype)


def pixel_by_pixel(batch: Tensor, padding: int, mirrored: bool, generator: torch.Generator) -> Tensor:
    """He 2015, section 4.2: pad by `padding` zeros, crop the old size anywhere, mirror half of the crops."""
    count, channels, height, width = batch.shape
    draws = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator).squeeze(2).tolist()
    coins = (torch.rand(count, 1, generator=generator) < 0.5).squeeze(1).tolist()
    result = torch.zeros_like(batch)
    for image in range(count):
        for channel in range(channels):
            for row in range(height):
                for column in range(width):
                    from_row = row + draws[0][image] - padding
                    from_column = column + draws[1][image] - padding
                    to_column = width - 1 - column if mirrored and coins[image] else column
                    if 0 <= from_row < height and 0 <= from_column < width:
                        result[image, channel, row, to_column] = batch[image, channel, from_row, from_column]
    return result


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 3, 9])
@pytest.mark.parametrize("shape", [(12, 1, 8, 8), (6, 3, 5, 7), (1, 2, 1, 4)])
def test_equals_a_loop_over_pixels(shape: tuple[int, int, int, int], padding: int, mirrored: bool) -> None:
    batch = images(*shape)
    actual = augment(batch, padding, mirrored, torch.Generator().manual_seed(7))
    expected = pixel_by_pixel(batch, padding, mirrored, torch.Generator().manual_seed(7))
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_keeps_shape_and_type(dtype: torch.dtype) -> None:
    batch = images(4, 3, 6, 8, dtype)
    result = augment(batch, 2, True, torch.Generator().manual_seed(0))
    assert result.dtype == dtype
    assert result.shape == batch.shape


def test_input_is_left_alone() -> None:
    batch = images(4, 3, 6, 8)
    before = batch.clone()
    augment(batch, 2, True, torch.Generator().manual_seed(0))
    assert torch.equal(batch, before)


def test_never_mirrors_unless_asked() -> None:
    batch = images(1, 1, 4, 4).expand(500, 1, 4, 4)
    assert torch.equal(augment(batch, 0, False, torch.Generator().manual_seed(1)), batch)


def test_mirrors_half_of_the_images_when_asked() -> None:
    batch = images(1, 1, 4, 4).expand(2000, 1, 4, 4)
    result = augment(batch, 0, True, torch.Generator().manual_seed(1))
    same = (result == batch).flatten(1).all(1)
    flipped = (result == batch.flip(3)).flatten(1).all(1)
    assert bool((same ^ flipped).all())
    # Five standard deviations of 2000 fair coins.
    assert abs(int(flipped.sum()) - 1000) < 5 * np.sqrt(500)


def test_every_shift_comes_equally_often() -> None:
    padding, count = 2, 20_000
    batch = torch.zeros(count, 1, 5, 5, dtype=torch.uint8)
    batch[:, :, 2, 2] = 1
    places = augment(batch, padding, True, torch.Generator().manual_seed(2))[:, 0].flatten(1).argmax(1)
    seen = np.bincount(places.numpy(), minlength=25)
    expected = count / 25
    chi_squared = ((seen - expected) ** 2 / expected).sum()
    # The 99.99 % quantile of chi-squared with 24 degrees of freedom.
    assert chi_squared < 60.3


def test_same_generator_state_same_images() -> None:
    batch = images(16, 3, 8, 8)
    first, again, other = (augment(batch, 1, True, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_draws_come_from_the_given_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    augment(images(4, 1, 4, 4), 1, True, torch.Generator().manual_seed(9))
    assert torch.equal(torch.rand(1), expected)
