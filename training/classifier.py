"""A network with its input normalisation: what is trained and exported. Pixels N×C×H×W in 0…255, logits N×K."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PixelClassifier(nn.Module):
    """logits = network((pixels − mean) · (1 / std)), with mean and std per channel in pixel values."""

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network((pixels - self.mean) * self.scale)  # type: ignore[no-any-return]
