"""RandAugment against Pillow, operation by operation; random erasing against its definition."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from training.augmentations.entry import Augmentation
from training.augmentations.erasing import AREA, RATIO, RandomErasing
from training.augmentations.rand_augment import OPERATIONS, RandAugment

COUNT, SIZE = 3, 24


def pictures() -> Tensor:
    """Colours that change smoothly, so that a resampled pixel is not far from its neighbours."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    waves = [
        torch.sin(rows * (0.1 + 0.05 * number) + channel) + torch.cos(columns * (0.15 + 0.03 * channel) - number)
        for number in range(COUNT)
        for channel in range(3)
    ]
    return (110 + 45 * torch.stack(waves)).round().to(torch.uint8).reshape(COUNT, 3, SIZE, SIZE)


def by_pillow(name: str, image: Image.Image, strength: float, sign: int) -> Image.Image:
    factor = 1 + 0.9 * strength * sign
    moved = {
        "shear_x": (1, 0.3 * strength * sign, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.3 * strength * sign, 1, 0),
        "translate_x": (1, 0, 0.45 * strength * sign * SIZE, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, 0.45 * strength * sign * SIZE),
    }
    if name in moved:
        a, b, c, d, e, f = moved[name]
        # Pillow's origin is a corner, and ours the centre.
        middle = SIZE / 2
        c, f = c + middle - a * middle - b * middle, f + middle - d * middle - e * middle
        return image.transform(image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR)
    enhanced = {
        "colour": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhanced:
        return enhanced[name](image).enhance(factor)
    if name == "rotate":
        return image.rotate(30 * strength * sign, Image.Resampling.BILINEAR)
    return {
        "identity": lambda: image,
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "solarize": lambda: ImageOps.solarize(image, math.ceil(255 * (1 - strength))),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(4 * strength)),
    }[name]()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_pillow(name: str, sign: int) -> None:
    """Within the rounding of 8 bits, and away from edges, where Pillow blends with what is outside in another way."""
    strength = 9 / 30
    batch = pictures()
    augmentation = RandAugment(1, 9)
    rows = torch.tensor([[list(OPERATIONS).index(name), sign]]).repeat(COUNT, 1)
    actual = augmentation.apply(batch, rows).numpy()
    for number in range(COUNT):
        image = Image.fromarray(batch[number].permute(1, 2, 0).numpy())
        expected = np.asarray(by_pillow(name, image, strength, sign)).transpose(2, 0, 1).astype(float)
        off = np.abs(actual[number] - expected)
        # What comes in from outside is black in both, a pixel more or less of it.
        assert np.quantile(off, 0.9) <= 3.0, name
        assert (name == "identity") == bool((actual[number] == batch[number].numpy()).all())


def test_each_image_has_draws_of_its_own() -> None:
    batch = pictures()[:1].repeat(200, 1, 1, 1)
    augmentation = RandAugment(2, 9)
    rows = augmentation.draw(200, torch.Generator().manual_seed(0))
    assert rows.shape == (200, 4)
    kinds = {tuple(row) for row in rows.tolist()}
    assert len(kinds) > 100
    result = augmentation.apply(batch, rows)
    for place in (0, 57, 199):
        assert torch.equal(augmentation.apply(batch[place : place + 1], rows[place : place + 1])[0], result[place])
    counts = np.bincount(rows[:, 0], minlength=len(OPERATIONS))
    assert counts.min() > 0


@pytest.mark.parametrize("augmentation", [RandAugment(2, 12), RandomErasing(0.5, (7.0, 8.0, 9.0))])
def test_range_shape_and_generator(augmentation: Augmentation) -> None:
    batch = pictures()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first, again = (
        augmentation.apply(batch, augmentation.draw(COUNT, torch.Generator().manual_seed(3))) for _ in range(2)
    )
    assert torch.equal(torch.rand(1), expected), "PyTorch's own generator is left alone"
    assert torch.equal(first, again)
    assert first.shape == batch.shape
    assert 0 <= first.min() <= first.max() <= 255
    grey = augmentation.__class__ is RandAugment
    if grey:
        one = batch[:, :1]
        assert augmentation.apply(one, augmentation.draw(COUNT, torch.Generator())).shape == one.shape


def test_erased_rectangles() -> None:
    """Zhong 2017: with probability p a rectangle of 2 % to 33 % of the image, of ratio 0.3 to 3.3, anywhere."""
    height, width, count = 40, 60, 4000
    erasing = RandomErasing(0.25, (9.0,))
    batch = torch.ones(count, 1, height, width)
    result = erasing.apply(batch, erasing.draw(count, torch.Generator().manual_seed(1)))[:, 0]
    erased = result == 9.0
    assert bool((erased | (result == 1.0)).all())
    hit = erased.flatten(1).any(1)
    # Five standard deviations of 4000 coins that show a quarter.
    assert abs(int(hit.sum()) - 1000) < 5 * math.sqrt(750)
    for each in erased[hit][:300]:
        rows, columns = each.any(1), each.any(0)
        tall, wide = int(rows.sum()), int(columns.sum())
        assert int(each.sum()) == tall * wide, "a rectangle"
        assert tall * wide <= AREA[1] * height * width * 1.1
        if tall < height and wide < width:
            assert tall * wide >= AREA[0] * height * width * 0.85
            assert RATIO[0] * 0.8 <= tall / wide <= RATIO[1] * 1.25
    often = erased.double().mean(0)
    assert often[0, 0] > 0
    assert often[height // 2, width // 2] > often[0, 0]
