"""Square regions of feature maps against loops and against probability theory, and what is done with them."""

import math

import pytest
import torch
from torch import Tensor

from tests.training.regularising import RATE, build, draw, features
from training.regularisers.disout import Disout
from training.regularisers.dropblock import DropBlock
from training.regularisers.rate import Rate
from training.regularisers.regions import kept
from training.regularisers.schedules import constant


def covered(height: int, width: int, side: int, corners: set[tuple[int, int]]) -> Tensor:
    """1 wherever a square that begins in one of `corners` lies; written as loops."""
    mask = torch.zeros(height, width)
    for row, column in corners:
        for down in range(side):
            for right in range(side):
                mask[row + down, column + right] = 1
    return mask


class TestRegions:
    @pytest.mark.parametrize(("height", "width", "size"), [(12, 12, 3), (9, 14, 4), (6, 6, 7), (5, 3, 7), (1, 1, 7)])
    def test_what_is_dropped_is_a_union_of_whole_squares(self, height: int, width: int, size: int) -> None:
        torch.manual_seed(0)
        side = min(size, height, width)
        dropped = 1 - kept(torch.ones(20, 3, height, width), 0.2, size)
        assert set(dropped.unique().tolist()) == {0.0, 1.0}
        for mask in dropped.flatten(0, 1):
            inside = {
                (row, column)
                for row in range(height - side + 1)
                for column in range(width - side + 1)
                if mask[row : row + side, column : column + side].all()
            }
            assert torch.equal(covered(height, width, side, inside), mask)

    @pytest.mark.parametrize(("height", "width", "size"), [(12, 12, 3), (9, 14, 4), (8, 8, 1), (4, 4, 7)])
    @pytest.mark.parametrize("rate", [0.05, 0.3])
    def test_the_dropped_share_is_that_of_independent_squares(
        self, height: int, width: int, size: int, rate: float
    ) -> None:
        """P(position dropped) = 1 − (1 − γ)^(squares that cover it); without overlap it would be γ·squares: `rate`."""
        torch.manual_seed(0)
        side = min(size, height, width)
        gamma = rate * height * width / (side**2 * (height - side + 1) * (width - side + 1))
        everywhere = [(row, column) for row in range(height - side + 1) for column in range(width - side + 1)]
        squares = sum(covered(height, width, side, {corner}) for corner in everywhere)
        assert (gamma * squares).mean() == pytest.approx(rate)
        expected = 1 - (1 - gamma) ** squares
        maps = 6000
        share = (1 - kept(torch.ones(maps // 3, 3, height, width), rate, size)).mean((0, 1))
        error = (share - expected) / (expected * (1 - expected) / maps).sqrt()
        assert error.abs().max() <= 5
        assert share.mean() <= rate + 0.01

    def test_images_and_channels_have_their_own(self) -> None:
        torch.manual_seed(0)
        masks = kept(torch.ones(4, 3, 12, 12), 0.3, 3).flatten(0, 1)
        assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 12

    def test_dropblock_scales_by_what_is_kept(self) -> None:
        """Ghiasi 2018, algorithm 1: × count(M) / count_ones(M)."""
        x = features()
        for y in draw(build("dropblock", size=3), x, 3):
            mask = (y != 0).float()
            torch.testing.assert_close(y, x * mask * (mask.numel() / mask.sum()))

    def test_where_all_is_dropped_nothing_is_left(self) -> None:
        """One image of one position: often there is no unit to scale."""
        module = build("dropblock", 0.99, size=1)
        y = draw(module, torch.ones(1, 1, 1, 1), 200)
        assert set(y.flatten().tolist()) == {0.0, 1.0}

    def test_disout_puts_noise_in_place(self) -> None:
        """N(0, (α·s)²) where the mask is 0, all divided by what is kept of it."""
        x = features()
        alpha = 0.7
        torch.manual_seed(5)
        mask = kept(x, RATE, 3)
        y = draw(build("disout", size=3, alpha=alpha), x, 1, seed=5)[0]
        scale = mask.mean()
        torch.testing.assert_close(y[mask == 1], (x / scale)[mask == 1])
        noise = (y * scale)[mask == 0]
        spread = alpha * x.double().std().item()
        assert abs(noise.mean().item()) <= 5 * spread / math.sqrt(noise.numel())
        assert noise.std().item() == pytest.approx(spread, rel=5 / math.sqrt(2 * noise.numel()))
        assert (noise / spread).pow(4).mean().item() == pytest.approx(3, rel=5 * math.sqrt(32 / 3 / noise.numel()))

    def test_disout_without_noise_is_dropblock(self) -> None:
        x = features()
        one, other = (
            draw(build(name, size=4, **extra), x, 2) for name, extra in (("disout", {"alpha": 0.0}), ("dropblock", {}))
        )
        assert torch.equal(one[0] == 0, other[0] == 0)
        torch.testing.assert_close(one[0], other[0])

    @pytest.mark.parametrize("size", [0, -1, 2.5, float("inf"), float("nan")])
    def test_impossible_sizes(self, size: float) -> None:
        for module in (lambda: DropBlock(Rate(0.1, constant), size), lambda: Disout(Rate(0.1, constant), size, 1.0)):
            with pytest.raises(ValueError, match=r"(dropblock|disout)\.size=.* is not allowed: use a whole number"):
                module()

    @pytest.mark.parametrize("alpha", [-1.0, math.inf, math.nan])
    def test_impossible_alpha(self, alpha: float) -> None:
        with pytest.raises(ValueError, match=r"disout\.alpha=.* is not allowed: use "):
            Disout(Rate(0.1, constant), 3, alpha)
