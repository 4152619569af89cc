"""Square regions of feature maps, drawn at random."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 7.0
"""Side of a region: what Ghiasi 2018 found best for 28×28 and 14×14 maps."""


def check_size(name: str, size: float) -> int:
    """`size` as a whole number; raises `ValueError` if it is none, or below 1."""
    if not 1 <= size < math.inf or size != int(size):
        raise ValueError(f"{name}={size:g} is not allowed: use a whole number, 1 or more")
    return int(size)


def kept(x_NCHW: Tensor, rate: float, size: int) -> Tensor:
    """1 where `x_NCHW` is kept, 0 in b×b squares that are drawn for every image and channel; N×C×H×W.

    b = min(size, H, W). Each of the (H − b + 1)(W − b + 1) places of a square is drawn with the probability
    γ = rate/b² · HW / ((H − b + 1)(W − b + 1)): were no two squares to overlap, `rate` of all positions would be in
    one (Ghiasi 2018, equation 1).
    """
    count, channels, height, width = x_NCHW.shape
    side = min(size, height, width)
    rows, columns = height - side + 1, width - side + 1
    gamma = rate / side**2 * height * width / (rows * columns)
    corners = (torch.rand(count, channels, rows, columns, device=x_NCHW.device) < gamma).to(x_NCHW.dtype)
    return 1 - F.max_pool2d(F.pad(corners, (side - 1,) * 4), side, stride=1)
