"""Squeeze-and-excitation (Hu 2018): a branch weighs its own channels by what it saw in the whole image."""

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """y = x · σ(W₂ · max(0, W₁ · mean over H×W of x + b₁) + b₂), with one weight for each channel; N×C×H×W.

    Its ReLU is the paper's δ and part of the gate, as σ is: it sees one number for each of C / reduction channels and
    no image, so it is no site of the network's activation and stays ReLU whatever that is. Parts are named as
    published checkpoints name them.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.gate(self.fc2(self.relu(self.fc1(self.pool(x)))))
        return x * weights
