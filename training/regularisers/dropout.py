"""Dropout between the convolutions of a branch."""

import torch.nn.functional as F
from torch import Tensor, nn

from training.regularisers.rate import Rate


class Dropout(nn.Module):
    """y = x·m / (1 − rate), m ~ Bernoulli(1 − rate) for every unit; in evaluation y = x.

    Shapes: any, kept. Srivastava 2014; between convolutions Zagoruyko & Komodakis 2016.
    """

    def __init__(self, rate: Rate) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.rate.now) if self.training else x
