"""Accuracy and loss against scikit-learn's."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, log_loss

from training.data.images import LabelledImages
from training.loop.evaluation import evaluate


def labelled(count: int, classes: int) -> LabelledImages:
    """Images that carry their own number, so that a prediction can be looked up by image."""
    numbers = np.arange(count)
    pixels = np.stack([numbers // 256, numbers % 256], axis=1).astype(np.uint8).reshape(count, 2, 1, 1)
    return LabelledImages(pixels, np.random.default_rng(1).integers(0, classes, count))


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_equals_scikit_learn(batch_size: int, scale: float) -> None:
    count, classes = 333, 5
    images = labelled(count, classes)
    table = np.random.default_rng(2).normal(0, scale, (count, classes)).astype(np.float32)

    def predict(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert len(pixels) <= batch_size
        return table[pixels[:, 0, 0, 0].astype(int) * 256 + pixels[:, 1, 0, 0]]

    result = evaluate(predict, images, batch_size)
    exponentials = np.exp(table.astype(np.float64) - table.max(1, keepdims=True).astype(np.float64))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    assert result.images == count
    assert result.accuracy == accuracy_score(images.labels, table.argmax(1))
    assert result.loss == pytest.approx(log_loss(images.labels, probabilities, labels=range(classes)), rel=1e-9)


def test_logits_far_apart_do_not_overflow() -> None:
    images = labelled(2, 2)
    logits = np.array([[5000.0, -5000.0], [5000.0, -5000.0]], np.float32)
    result = evaluate(lambda _: logits, LabelledImages(images.pixels, np.array([0, 1])))
    assert result.loss == pytest.approx((0 + 10_000) / 2)
    assert result.accuracy == 0.5
