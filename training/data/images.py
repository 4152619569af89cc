"""Labelled images in memory, already pre-processed exactly as the service will pre-process them."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.card import SkippedImage
from models.manifest import Preprocessing

NAMED = 5
PART = 4096
"""Images that are looked at in one go."""


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
    source: str = ""
    """What was read, in words."""
    sizes: NDArray[np.int32] | None = None
    """Width and height of each image as it was found, N×2, those of both splits together."""
    skipped: tuple[SkippedImage, ...] = ()
    """Images that could not be read."""


def channel_moments(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in pixel values 0…255, from exact integer counts."""
    means, deviations = [], []
    values = np.arange(256, dtype=np.float64)
    for channel in range(pixels.shape[1]):
        counts = np.zeros(256, np.int64)
        # A part at a time: counting needs eight times the memory of what is counted.
        for start in range(0, len(pixels), PART):
            counts += np.bincount(pixels[start : start + PART, channel].ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        variance = float(counts @ (values - mean) ** 2 / counts.sum())
        means.append(mean)
        # A channel that never varies is only centred.
        deviations.append(variance**0.5 or 1.0)
    return tuple(means), tuple(deviations)


def digest(data: DataSet) -> str:
    """SHA-256 over class names, labels and images of both splits: a resumed run must see the same ones."""
    sha = hashlib.sha256("\0".join(data.class_names).encode())
    for images in (data.training, data.held_out):
        sha.update(images.labels.astype("<i8", copy=False).tobytes())
        for start in range(0, len(images), PART):
            sha.update(images.pixels[start : start + PART].tobytes())
    return sha.hexdigest()


def check_classes(class_names: tuple[str, ...], labels: NDArray[np.int64], where: str) -> None:
    """Raise `ValueError` when a class has no image in a split: its accuracy could not even be asked."""
    if len(class_names) < 2:
        raise ValueError(
            f"{where} has {len(class_names)} classes: a classifier needs at least 2, give images of another class too"
        )
    missing = np.setdiff1d(np.arange(len(class_names)), labels).tolist()
    if missing:
        names = ", ".join(class_names[index] for index in missing[:NAMED])
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise ValueError(
            f"{where} has no image of class {names}{more}: give every class at least one image in both splits"
        )
