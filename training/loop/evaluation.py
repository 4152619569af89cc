"""How well a classifier does on labelled images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.images import LabelledImages

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
