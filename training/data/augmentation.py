"""Standard augmentation of He 2015, a whole batch at a time: padded random crop and mirroring."""

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images_NCHW: Tensor, padding: int, mirrored: bool, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `padding` pixels, zeros coming in, and mirror half of them if `mirrored`.

    Shapes and dtype are kept. The random draws come from `generator` alone, on the CPU, in a fixed order.
    """
    count, _, height, width = images_NCHW.shape
    offsets = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    mirror = torch.rand(count, 1, generator=generator) < 0.5
    rows_NH = offsets[0] + torch.arange(height)
    columns_NW = offsets[1] + torch.arange(width)
    if mirrored:
        columns_NW = torch.where(mirror, columns_NW.flip(1), columns_NW)
    padded_NHWC = F.pad(images_NCHW, (padding,) * 4).permute(0, 2, 3, 1)
    device = images_NCHW.device
    batch = torch.arange(count, device=device)[:, None, None]
    return padded_NHWC[batch, rows_NH.to(device)[:, :, None], columns_NW.to(device)[:, None, :]].permute(0, 3, 1, 2)
