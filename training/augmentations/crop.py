"""Standard augmentation of He 2015, a whole batch at a time: padded random crop and mirroring."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class RandomCrop:
    """Shift each image by up to `padding` pixels, zeros coming in, and mirror half of them if `mirrored`."""

    padding: int
    mirrored: bool

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Offsets of row and column, and whether it is mirrored: N×3."""
        offsets = torch.randint(0, 2 * self.padding + 1, (2, count, 1), generator=generator)
        mirror = torch.rand(count, 1, generator=generator) < 0.5
        return torch.cat([offsets[0], offsets[1], mirror.long()], 1)

    def apply(self, images_NCHW: Tensor, rows: Tensor) -> Tensor:
        """Shape and dtype are kept."""
        count, _, height, width = images_NCHW.shape
        device = images_NCHW.device
        rows = rows.to(device)
        rows_NH = rows[:, :1] + torch.arange(height, device=device)
        columns_NW = rows[:, 1:2] + torch.arange(width, device=device)
        if self.mirrored:
            columns_NW = torch.where(rows[:, 2:].bool(), columns_NW.flip(1), columns_NW)
        padded_NHWC = F.pad(images_NCHW, (self.padding,) * 4).permute(0, 2, 3, 1)
        batch = torch.arange(count, device=device)[:, None, None]
        return padded_NHWC[batch, rows_NH[:, :, None], columns_NW[:, None, :]].permute(0, 3, 1, 2)


def augment(images_NCHW: Tensor, padding: int, mirrored: bool, generator: torch.Generator) -> Tensor:
    """Draw and apply at once."""
    crop = RandomCrop(padding, mirrored)
    return crop.apply(images_NCHW, crop.draw(len(images_NCHW), generator))
