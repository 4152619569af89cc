"""Images that are mixed with others of their batch, and their labels with them: mixup and CutMix."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def mix(
    images_NCHW: Tensor,
    labels_N: Tensor,
    classes: int,
    mixup_alpha: float,
    cutmix_alpha: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Mix each image with one of its batch, and say of each how much it is of which class: N×`classes`, rows sum to 1.

    λ ~ Beta(α, α), one for the batch. Mixup (Zhang 2018): λ·x + (1 − λ)·x′. CutMix (Yun 2019): a box of x is taken
    from x′, see `cut`, and λ is the share that is left of x. The target is λ·y + (1 − λ)·y′ in both. Where both α are
    above 0, each batch is mixed in one of the two ways, drawn evenly; at least one must be. The random draws come from
    `generator` alone, on the CPU.
    """
    # PyTorch's Beta distribution draws from no generator but its own.
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    cutting = draw.random() < 0.5 if mixup_alpha and cutmix_alpha else bool(cutmix_alpha)
    alpha = cutmix_alpha if cutting else mixup_alpha
    share = float(draw.beta(alpha, alpha))
    partner = torch.from_numpy(draw.permutation(len(images_NCHW))).to(images_NCHW.device)
    if cutting:
        height, width = images_NCHW.shape[2:]
        rows, columns = cut(height, width, share, draw)
        mixed = images_NCHW.clone()
        mixed[:, :, rows, columns] = images_NCHW[partner][:, :, rows, columns]
        share = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    else:
        mixed = share * images_NCHW + (1 - share) * images_NCHW[partner]
    targets_NK = F.one_hot(labels_N, classes).to(images_NCHW.dtype)
    return mixed, share * targets_NK + (1 - share) * targets_NK[partner]


def cut(height: int, width: int, share: float, draw: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a box of √(1 − share) of each side around a point drawn anywhere, as far as it is inside."""
    ratio = np.sqrt(1 - share)

    def side(length: int) -> slice:
        half, centre = int(length * ratio) // 2, int(draw.integers(length))
        return slice(max(0, centre - half), min(length, centre + half))

    return side(height), side(width)
