"""Random erasing: a rectangle of an image is hidden."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Shares of the image's area, and ratios of height to width.
AREA = (0.02, 0.33)
RATIO = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class RandomErasing:
    """With `probability` a rectangle takes the colour `fill`, one value a channel (Zhong 2017).

    Its area is uniform over 2 % to 33 % of the image, its ratio log-uniform over 0.3 to 3.3, its place uniform. One
    that does not fit is cut to the image, where the paper draws again. With the mean of the training images as `fill`
    what is erased is 0 after normalisation.
    """

    probability: float
    fill: tuple[float, ...]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Five numbers in 0…1 an image: whether, area, ratio, row and column."""
        return torch.rand(count, 5, generator=generator)

    def apply(self, images_NCHW: Tensor, rows: Tensor) -> Tensor:
        """Shape and dtype are kept."""
        height, width = images_NCHW.shape[2:]
        chance, area, ratio, row, column = rows.double().unbind(1)
        pixels = (AREA[0] + (AREA[1] - AREA[0]) * area) * height * width
        aspect = torch.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * ratio)
        tall = (pixels * aspect).sqrt().round().clamp(1, height)
        wide = (pixels / aspect).sqrt().round().clamp(1, width)
        top, left = (row * (height - tall + 1)).floor(), (column * (width - wide + 1)).floor()
        hidden_NH = _between(height, top, tall)
        hidden_NW = _between(width, left, wide)
        hidden = (
            hidden_NH[:, None, :, None] & hidden_NW[:, None, None, :] & (chance < self.probability).reshape(-1, 1, 1, 1)
        )
        fill = torch.tensor(self.fill, device=images_NCHW.device).to(images_NCHW.dtype).reshape(1, -1, 1, 1)
        return torch.where(hidden.to(images_NCHW.device), fill, images_NCHW)


def _between(length: int, start: Tensor, size: Tensor) -> Tensor:
    places = torch.arange(length)
    return (places >= start[:, None]) & (places < (start + size)[:, None])
