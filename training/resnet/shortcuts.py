"""What travels around a residual branch where the branch changes the shape. Shapes: N×C×H×W in, N×C′×H/s×W/s out."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.resnet.block import Build


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


def projection_shortcut(channels_in: int, channels_out: int, stride: int, normalise: Build) -> nn.Sequential:
    """Option B of He 2015: a strided 1×1 convolution with the network's normalisation."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), normalise(channels_out))


def padded_shortcut(channels_in: int, channels_out: int, stride: int, normalise: Build) -> nn.Module:
    """Option A of He 2015; where channels become fewer there is nothing to pad, and option B takes its place."""
    if channels_out < channels_in:
        return projection_shortcut(channels_in, channels_out, stride, normalise)
    return PaddedShortcut(channels_in, channels_out, stride)


class SpaceToDepth(nn.Module):
    """Squares of s×s positions become s² channels each: N×C×H×W → N×s²C×H/s×W/s; nothing is lost (Jacobsen 2018)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % self.stride or x.shape[3] % self.stride:
            height, width = x.shape[2:]
            raise ValueError(
                f"feature maps of {height}×{width} cannot be cut into squares of {self.stride}×{self.stride}: "
                "use images whose sides can be halved as often as the network halves them"
            )
        return F.pixel_unshuffle(x, self.stride)

    def inverse(self, y: Tensor) -> Tensor:
        """x; since numbers only change their places, also the gradient of x for the gradient y."""
        return F.pixel_shuffle(y, self.stride)


def space_to_depth(channels_in: int, channels_out: int, stride: int, _: Build) -> nn.Module:
    """For stages that each have stride² times as many channels as the one before."""
    if channels_out != channels_in * stride**2:
        raise ValueError(
            f"{channels_in} to {channels_out} channels at stride {stride} cannot be inverted: "
            f"widths of the stages must grow by {stride**2}"
        )
    return SpaceToDepth(stride)


def average_shortcut(channels_in: int, channels_out: int, stride: int, normalise: Build) -> nn.Module:
    """An average over stride × stride and a 1×1 convolution, which so sees all of its input (He 2018, "D")."""
    # At an odd edge the average is of what is there: then it has the size that the branch's padded convolution has.
    pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
    return nn.Sequential(pool, *projection_shortcut(channels_in, channels_out, 1, normalise))


SHORTCUTS: dict[str, Callable[[int, int, int, Build], nn.Module]] = {
    "padded": padded_shortcut,
    "projection": projection_shortcut,
    "average": average_shortcut,
    "space_to_depth": space_to_depth,
}
