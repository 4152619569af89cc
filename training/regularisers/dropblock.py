"""Dropout of regions: what is next to a dropped unit would tell the same."""

from torch import Tensor, nn

from training.regularisers.rate import Rate
from training.regularisers.regions import check_size, kept


class DropBlock(nn.Module):
    """y = x·m / mean(m) with a mask m of square regions, see `regions.kept`; in evaluation y = x.

    Shapes: N×C×H×W, kept. The mean is over the whole batch. Ghiasi 2018, algorithm 1, with a mask for each channel.
    Raises `ValueError` for a size that is no whole number above 0.
    """

    def __init__(self, rate: Rate, size: float) -> None:
        super().__init__()
        self.rate, self.size = rate, check_size("dropblock.size", size)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        mask = kept(x, self.rate.now, self.size)
        # Where all was dropped there is nothing to scale.
        return x * (mask / mask.mean().clamp_min(1 / mask.numel()))
