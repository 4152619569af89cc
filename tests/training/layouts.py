"""Networks under the names of published checkpoints, written down from their papers and nothing of ours.

`ImageNetLayout` has the names of torchvision's `resnet*`, `CifarLayout` those of the common CIFAR implementation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Block(nn.Module):
    def __init__(self, convolutions: list[nn.Conv2d]) -> None:
        super().__init__()
        for number, convolution in enumerate(convolutions, 1):
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", nn.BatchNorm2d(convolution.out_channels))
        self.count = len(convolutions)

    def around(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = F.relu(y) if number < self.count else y
        return F.relu(y + self.around(x))


class _ImageNetBlock(_Block):
    def __init__(self, convolutions: list[nn.Conv2d]) -> None:
        super().__init__(convolutions)
        self.downsample: nn.Module | None = None

    def around(self, x: Tensor) -> Tensor:
        return self.downsample(x) if self.downsample is not None else x


class ImageNetLayout(nn.Module):
    """18 to 152 layers; `groups` and `base` (width of a group in the first stage) as of ResNeXt and Wide ResNet."""

    def __init__(self, depths: list[int], deep: bool, classes: int = 1000, groups: int = 1, base: int = 64) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        into = 64
        for stage, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True)):
            blocks = []
            for index in range(depth):
                stride, out = (2 if stage and not index else 1), width * (4 if deep else 1)
                inner = int(width * base / 64) * groups
                if deep:
                    convolutions = [
                        nn.Conv2d(into, inner, 1, bias=False),
                        nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False),
                        nn.Conv2d(inner, out, 1, bias=False),
                    ]
                else:
                    convolutions = [
                        nn.Conv2d(into, width, 3, stride, 1, bias=False),
                        nn.Conv2d(width, width, 3, 1, 1, bias=False),
                    ]
                block = _ImageNetBlock(convolutions)
                if stride > 1 or into != out:
                    block.downsample = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
                blocks.append(block)
                into = out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(into, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class _CifarBlock(_Block):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__(
            [nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.Conv2d(out, out, 3, 1, 1, bias=False)],
        )
        self.new, self.stride = out - into, stride

    def around(self, x: Tensor) -> Tensor:
        # Option A: every second position, zeros for the new channels, half of them on either side.
        zeros = x.new_zeros(len(x), self.new // 2, -(-x.shape[2] // self.stride), -(-x.shape[3] // self.stride))
        return torch.cat([zeros, x[:, :, :: self.stride, :: self.stride], zeros], 1)


class CifarLayout(nn.Module):
    """6·blocks + 2 layers."""

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        into = 16
        for stage, width in enumerate((16, 32, 64)):
            parts = []
            for index in range(blocks):
                parts.append(_CifarBlock(into, width, 2 if stage and not index else 1))
                into = width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*parts))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def trained(network: nn.Module, size: int, seed: int = 0) -> nn.Module:
    """Random weights, and running statistics of random images as training leaves them; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        elif isinstance(module, nn.Linear):
            module.weight.data.normal_(0, 0.5 / module.in_features**0.5, generator=generator)
    for norm in norms:
        norm.weight.data.uniform_(0.2, 1, generator=generator)
        norm.bias.data.normal_(0, 0.2, generator=generator)
        norm.momentum = None
    with torch.no_grad():
        network.train()(4 * torch.rand(16, 3, size, size, generator=generator) - 2)
    for norm in norms:
        # What is not that of these images either.
        norm.running_mean.add_(torch.randn(norm.num_features, generator=generator), alpha=0.05)
        norm.running_var.mul_(0.4 * torch.rand(norm.num_features, generator=generator) + 0.8)
    return network.eval()
