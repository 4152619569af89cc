"""Distortion of regions: what dropout sets to zero becomes noise."""

import math

import torch
from torch import Tensor, nn

from training.regularisers.rate import Rate
from training.regularisers.regions import check_size, kept


class Disout(nn.Module):
    """y = (x·m + ε·(1 − m)) / mean(m), ε ~ N(0, (α·s)²), s the standard deviation of x; in evaluation y = x.

    m is the mask of square regions of `regions.kept`. Shapes: N×C×H×W, kept. Tang 2020, where ε also grows with the
    weights of the layer after; here it is α alone that says how strong it is. α = 0 is DropBlock. No gradient goes
    through s. Raises `ValueError` when α is negative or not finite, and for a size that is no whole number above 0.
    """

    def __init__(self, rate: Rate, size: float, alpha: float) -> None:
        super().__init__()
        if not 0 <= alpha < math.inf:
            raise ValueError(f"disout.alpha={alpha} is not allowed: use a finite number, 0 or more")
        self.rate, self.size, self.alpha = rate, check_size("disout.size", size), alpha

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        mask = kept(x, self.rate.now, self.size)
        noise = torch.randn_like(x) * (self.alpha * x.detach().std(correction=0))
        return (x * mask + noise * (1 - mask)) / mask.mean().clamp_min(1 / mask.numel())
