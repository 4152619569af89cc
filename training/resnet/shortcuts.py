"""What travels around a residual branch where the branch changes the shape. Shapes: N×C×H×W in, N×C′×H/s×W/s out."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PaddedShortcut(nn.Module):
    """Option A of He 2015: every stride-th position, new channels filled with zeros on both sides; no parameters.

    In an exported graph it is a strided 1×1 convolution of zeros and ones, which computes the same: slices and pads
    would leave the blocked layout of the CPU's convolutions, and every later sum of the stage with it.
    """

    kernel: Tensor

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (channels_out - channels_in) // 2
        self.after = channels_out - channels_in - self.before
        identity_OI = F.pad(torch.eye(channels_in), (0, 0, self.before, self.after))
        self.register_buffer("kernel", identity_OI[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return F.conv2d(x, self.kernel, stride=self.stride)
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def projection_shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """Option B of He 2015: a strided 1×1 convolution with batch normalisation."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


def padded_shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """Option A of He 2015; where channels become fewer there is nothing to pad, and option B takes its place."""
    build = PaddedShortcut if channels_out >= channels_in else projection_shortcut
    return build(channels_in, channels_out, stride)


SHORTCUTS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "padded": padded_shortcut,
    "projection": projection_shortcut,
}
