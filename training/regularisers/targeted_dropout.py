"""Dropout of the weights that pruning would take."""

import torch
from torch import Tensor, nn

from training.regularisers.rate import Rate


class TargetedDropout(nn.Module):
    """w·m: of each output channel's weights the ⌊share·n⌋ smallest are dropped with `rate`; in evaluation w.

    m is 0 with `rate` for those and 1 for all others, and nothing is scaled: the network learns to do without what
    pruning would take, so that E[w·m] = (1 − rate)·w there. Gomez 2019. Shapes: O×…, kept.
    Raises `ValueError` for a share that is not from 0 to 1.
    """

    def __init__(self, rate: Rate, share: float) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"targeted_dropout.share={share} is not allowed: use a number from 0 to 1")
        self.rate, self.share = rate, share

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return weight
        sizes = weight.detach().abs().flatten(1)
        smallest = sizes.topk(int(self.share * sizes.shape[1]), largest=False).indices
        targeted = torch.zeros_like(sizes, dtype=torch.bool).scatter_(1, smallest, True)
        dropped = targeted & (torch.rand(sizes.shape, device=weight.device) < self.rate.now)
        return weight * ~dropped.view_as(weight)
