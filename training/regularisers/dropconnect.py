"""Dropout of weights instead of units."""

import torch.nn.functional as F
from torch import Tensor, nn

from training.regularisers.rate import Rate


class DropConnect(nn.Module):
    """w·m / (1 − rate), m ~ Bernoulli(1 − rate) for every weight; in evaluation w.

    One mask for the whole batch. Wan 2013, who sample the sums' Gaussian approximation in evaluation; its mean, which
    is the sum with w itself, stands in its place. Shapes: any, kept.
    """

    def __init__(self, rate: Rate) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, weight: Tensor) -> Tensor:
        return F.dropout(weight, self.rate.now) if self.training else weight
