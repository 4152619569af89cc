"""Blocks that are left out at random."""

import torch
from torch import Tensor, nn

from training.regularisers.rate import Rate


class StochasticDepth(nn.Module):
    """branch·m / (1 − rate), m ~ Bernoulli(1 − rate) for every image; in evaluation the branch as it is.

    Block l of L has l/L of the rate that was asked for: it survives with p_l = 1 − l/L·(1 − p_L), Huang 2016,
    equation 4. The paper leaves a block out for a whole batch, to save its time, and multiplies by p_l in evaluation;
    here each image has its draw, which varies the gradient less, and training divides by p_l, so that a published
    graph needs nothing. Shapes: N×C×H×W, kept.
    """

    def __init__(self, rate: Rate) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training:
            return branch
        keep = 1 - self.rate.now
        survives = torch.rand(len(branch), *(1,) * (branch.ndim - 1), device=branch.device) < keep
        return branch * (survives.to(branch.dtype) / keep)
