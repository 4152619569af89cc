"""Digits that have drifted: white on black became black on white."""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.shelf import SHIPPED_MODELS
from training.data import digits

DIGITS = digits.load()


def inverted(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return 255 - pixels


def write_inverted(folder: Path, training: int | None = None) -> None:
    """As files: train/<class>/*.png and test/<class>/*.png."""
    for split, images, count in (("train", DIGITS.training, training), ("test", DIGITS.held_out, None)):
        for index, (pixels, label) in enumerate(zip(images.pixels[:count], images.labels[:count], strict=True)):
            place = folder / split / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(inverted(pixels[0])).save(place / f"{index:04}.png")


def shelf_of_digits(folder: Path) -> Path:
    """A repository with the digits that ship alone."""
    shutil.copytree(SHIPPED_MODELS / "digits", folder / "digits")
    return folder
