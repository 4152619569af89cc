"""RandAugment: each image goes through operations drawn for it alone, of one strength."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Strengths are counted from 0 to this.
STRONGEST = 30

# Images N×C×H×W in 0…1, and of each image a strength in 0…1 and a sign.
Operation = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RandAugment:
    """`count` operations of the catalogue for each image, drawn evenly with replacement, at `strength` 0…30.

    Cubuk 2020. Operations are those of kornia, on all images that drew them at once; its own RandAugment draws one
    sequence for a batch, and from PyTorch's own generator, so neither would an image's draw be its own nor would it be
    the same for any number of processes.
    """

    count: int
    strength: float

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Operation and sign, by turns: N×2·`count`."""
        operations = torch.randint(0, len(OPERATIONS), (count, self.count), generator=generator)
        signs = 2 * torch.randint(0, 2, (count, self.count), generator=generator) - 1
        return torch.stack([operations, signs], 2).flatten(1)

    def apply(self, images_NCHW: Tensor, rows: Tensor) -> Tensor:
        """In single precision."""
        # Copied: what an operation did takes the place of what it got.
        images = (images_NCHW / 255).contiguous()
        operations = list(OPERATIONS.values())
        for drawn, signs in zip(rows[:, 0::2].unbind(1), rows[:, 1::2].unbind(1), strict=True):
            for number in sorted(set(drawn.tolist())):
                chosen = (drawn == number).nonzero().squeeze(1)
                strength = torch.full((len(chosen),), self.strength / STRONGEST, device=images.device)
                sign = signs[chosen].to(images)
                chosen = chosen.to(images.device)
                images[chosen] = operations[number](images[chosen], strength, sign).clamp(0, 1)
        return images * 255


def _identity(images: Tensor, _: Tensor, __: Tensor) -> Tensor:
    return images


def _auto_contrast(images: Tensor, _: Tensor, __: Tensor) -> Tensor:
    """The darkest value of each channel becomes 0, the brightest 1; one value alone stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp(min=1e-6), images)


def _equalize(images: Tensor, _: Tensor, __: Tensor) -> Tensor:
    # Here, for it takes a second to import, and most trainings do without.
    from kornia.enhance import equalize

    return equalize(images)


def _posterize(images: Tensor, strength: Tensor, _: Tensor) -> Tensor:
    """From 8 bits down to 4."""
    from kornia.enhance import posterize

    return posterize(images, 8 - (4 * strength).round().long())


def _solarize(images: Tensor, strength: Tensor, _: Tensor) -> Tensor:
    """What is brighter than 1 − strength is inverted."""
    return torch.where(images < 1 - strength.reshape(-1, 1, 1, 1), images, 1 - images)


def _sharpness(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    from kornia.enhance import sharpness

    return sharpness(images, _factor(strength, sign)) if min(images.shape[2:]) >= 3 else images


def _brightness(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return images * _factor(strength, sign).reshape(-1, 1, 1, 1)


def _contrast(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Away from the mean of the grey image, or towards it."""
    return _blend(_grey(images).mean((2, 3), keepdim=True), images, _factor(strength, sign))


def _colour(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Away from the grey image, or towards it."""
    return _blend(_grey(images), images, _factor(strength, sign))


def _shear_x(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return _moved(images, {(0, 1): 0.3 * strength * sign})


def _shear_y(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return _moved(images, {(1, 0): 0.3 * strength * sign})


def _translate_x(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    # The grid is two wide: 0.45 of it is 0.225 of two.
    return _moved(images, {(0, 2): 0.9 * strength * sign})


def _translate_y(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return _moved(images, {(1, 2): 0.9 * strength * sign})


def _rotate(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """By up to 30°."""
    angle = math.radians(30) * strength * sign
    sine, cosine = angle.sin(), angle.cos()
    aspect = images.shape[2] / images.shape[3]
    return _moved(images, {(0, 0): cosine, (0, 1): -sine * aspect, (1, 0): sine / aspect, (1, 1): cosine})


def _factor(strength: Tensor, sign: Tensor) -> Tensor:
    return 1 + 0.9 * strength * sign


def _grey(images: Tensor) -> Tensor:
    """Rec. 601; images that are not of three colours are as they are, by their mean."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)


def _blend(other: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    return other + (images - other) * factor.reshape(-1, 1, 1, 1)


def _moved(images: Tensor, entries: dict[tuple[int, int], Tensor]) -> Tensor:
    """Through the affine map that differs from the identity in `entries`; zeros come in."""
    matrices = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    for (row, column), values in entries.items():
        matrices[:, row, column] = values
    grid = torch.nn.functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


OPERATIONS: dict[str, Operation] = {
    "identity": _identity,
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "solarize": _solarize,
    "colour": _colour,
    "posterize": _posterize,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
