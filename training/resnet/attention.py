"""Pooling by attention. Shapes: feature maps N×C×H×W, weights N×H×W."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AttentionWeights(nn.Module):
    """a = softmax over the H×W positions of q · x / √C, with one learned query q of C numbers (shape 1×C×1×1).

    They are positive and sum to 1 in every image. The query starts at 0, where every position weighs the same; no
    position has a parameter of its own, so images of any size have weights.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = 1 / math.sqrt(channels)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W → N×H×W."""
        scores: Tensor = F.conv2d(x, self.query) * self.scale
        return scores.flatten(1).softmax(1).view(-1, *scores.shape[2:])


class AttentionPool(nn.Module):
    """Σ a · x over the positions, a the `AttentionWeights`: N×C×H×W → N×C. Before training it is average pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = AttentionWeights(channels)

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.weights(x)
        return (x * weights.unsqueeze(1)).sum((2, 3))
