"""Dropout at a rate of its own for every unit."""

import math

import torch
from torch import Tensor, nn

from training.regularisers.rate import Rate


class Standout(nn.Module):
    """y = x·m / π, m ~ Bernoulli(π), π = σ(α·max(x, 0) + β); in evaluation y = x.

    The belief network of Ba & Frey 2013 with their approximation that its weights are α times the layer's own, plus β:
    what is strongly active is kept. β = ln((1 − rate) / rate), so that a silent unit is dropped with `rate` and none
    more often. The paper multiplies by π in evaluation; here training divides by it (at least 1 − rate), so that
    E[y] = x and nothing is left to do later. As in the paper, no gradient goes through π. Shapes: any, kept.

    Raises `ValueError` when α is negative or not finite.
    """

    def __init__(self, rate: Rate, alpha: float) -> None:
        super().__init__()
        if not 0 <= alpha < math.inf:
            raise ValueError(f"standout.alpha={alpha} is not allowed: use a finite number, 0 or more")
        self.rate, self.alpha = rate, alpha

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = self.keep(x.detach())
        return x * ((torch.rand(x.shape, device=x.device) < keep) / keep).to(x.dtype)

    def keep(self, x: Tensor) -> Tensor:
        """π, the probability of every unit to be kept."""
        rate = self.rate.now
        # σ(α·max(x, 0) + β) with β written out, which is infinite where nothing is to be dropped.
        return 1 / (1 + rate / (1 - rate) * torch.exp(-self.alpha * x.float().clamp_min(0)))
