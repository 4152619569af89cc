"""Labelled images in memory, already pre-processed exactly as the service will pre-process them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.manifest import Preprocessing


@dataclass(frozen=True)
class LabelledImages:
    """Pixels N×C×H×W in uint8 and one class index per image."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        assert len(self.pixels) == len(self.labels)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSet:
    """A classification problem: images to train on, images held out, and what they are."""

    name: str
    training: LabelledImages
    held_out: LabelledImages
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    mirrored: bool
    """Whether a mirrored image keeps its class: true of photographs, false of digits."""
    class_weights: tuple[float, ...] | None = None
    """Factors of the loss by class, their mean over the training images 1; None where all count alike."""


def channel_moments(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in pixel values 0…255, from exact integer counts."""
    means, deviations = [], []
    values = np.arange(256, dtype=np.float64)
    for channel in range(pixels.shape[1]):
        counts = np.bincount(pixels[:, channel].ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        variance = float(counts @ (values - mean) ** 2 / counts.sum())
        means.append(mean)
        # A channel that never varies is only centred.
        deviations.append(variance**0.5 or 1.0)
    return tuple(means), tuple(deviations)


def check_classes(class_names: tuple[str, ...], labels: NDArray[np.int64], where: str) -> None:
    """Raise `ValueError` when a class has no image in a split: its accuracy could not even be asked."""
    missing = sorted(set(range(len(class_names))) - set(np.unique(labels).tolist()))
    if missing:
        names = ", ".join(class_names[index] for index in missing)
        raise ValueError(f"{where} has no image of class {names}: give every class at least one image in both splits")
