"""Images that are mixed with others of their batch, and their labels with them: mixup and CutMix."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """How a batch is mixed: image i with image `partners[i]`, of whose pixels it keeps the rest."""

    partners: Tensor
    share: float
    """What is left of the image itself."""
    box: tuple[slice, slice] | None = None
    """Rows and columns that come from the partner; all of it is blended where there is none."""

    def blend(self, images_NCHW: Tensor, partners_NCHW: Tensor) -> Tensor:
        """The mixed images."""
        if self.box is None:
            return self.share * images_NCHW + (1 - self.share) * partners_NCHW
        mixed = images_NCHW.clone()
        mixed[:, :, *self.box] = partners_NCHW[:, :, *self.box]
        return mixed

    def target(self, labels_N: Tensor, partners_N: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """How much each is of which class: N×`classes`, rows sum to 1."""
        own, other = (F.one_hot(labels, classes).to(dtype) for labels in (labels_N, partners_N))
        return self.share * own + (1 - self.share) * other


def draw_mixing(
    count: int, size: tuple[int, int], mixup_alpha: float, cutmix_alpha: float, generator: torch.Generator
) -> Mixing:
    """How a batch of `count` images of `size` (height, width) is mixed.

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
    partners = torch.from_numpy(draw.permutation(count))
    if not cutting:
        return Mixing(partners, share)
    height, width = size
    rows, columns = cut(height, width, share, draw)
    share = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return Mixing(partners, share, (rows, columns))


def mix(
    images_NCHW: Tensor,
    labels_N: Tensor,
    classes: int,
    mixup_alpha: float,
    cutmix_alpha: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw and mix a whole batch at once."""
    height, width = images_NCHW.shape[2:]
    mixing = draw_mixing(len(images_NCHW), (height, width), mixup_alpha, cutmix_alpha, generator)
    partners = mixing.partners.to(images_NCHW.device)
    targets = mixing.target(labels_N, labels_N[partners], classes, images_NCHW.dtype)
    return mixing.blend(images_NCHW, images_NCHW[partners]), targets


def cut(height: int, width: int, share: float, draw: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a box of √(1 − share) of each side around a point drawn anywhere, as far as it is inside."""
    ratio = np.sqrt(1 - share)

    def side(length: int) -> slice:
        half, centre = int(length * ratio) // 2, int(draw.integers(length))
        return slice(max(0, centre - half), min(length, centre + half))

    return side(height), side(width)
