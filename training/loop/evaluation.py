"""How well a classifier does on labelled images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.data.images import LabelledImages
from training.loop.world import World

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Pixels N×C×H×W → logits N×K."""


@dataclass(frozen=True)
class Evaluation:
    """Accuracy and mean cross-entropy (nats) over `images` images."""

    images: int
    accuracy: float
    loss: float


def evaluate(predict: Predict, images: LabelledImages, batch_size: int = 256) -> Evaluation:
    """Run every image once, in order."""
    correct, loss = tally(predict, images, batch_size)
    return Evaluation(len(images), correct / len(images), loss / len(images))


def evaluate_together(model: nn.Module, images: LabelledImages, device: torch.device, world: World) -> Evaluation:
    """`model` in evaluation mode on all `images`, each process on its share of them."""
    model.eval()

    @torch.inference_mode()
    def predict(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = model(torch.from_numpy(pixels).to(device).float()).float().cpu().numpy()
        return logits

    share = world.part(len(images))
    sums = tally(predict, LabelledImages(images.pixels[share], images.labels[share]))
    correct, loss = world.sum(torch.tensor(sums, dtype=torch.float64, device=device)).tolist()
    return Evaluation(len(images), correct / len(images), loss / len(images))


def tally(predict: Predict, images: LabelledImages, batch_size: int = 256) -> tuple[float, float]:
    """Images classified correctly, and the sum of their cross-entropies."""
    correct = 0
    loss = 0.0
    for start in range(0, len(images), batch_size):
        logits = predict(images.pixels[start : start + batch_size]).astype(np.float64)
        labels = images.labels[start : start + batch_size]
        correct += int((logits.argmax(1) == labels).sum())
        shifted = logits - logits.max(1, keepdims=True)
        loss += float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]).sum())
    return correct, loss
