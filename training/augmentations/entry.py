"""What an augmentation is."""

from typing import Protocol

import torch
from torch import Tensor


class Augmentation(Protocol):
    """Drawn for each image of the batch of all processes alike, and done to the images that a process has.

    So what happens to an image does not depend on how many processes there are.
    """

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """One row of numbers for each of `count` images, from `generator` alone, on the CPU, in a fixed order."""

    def apply(self, images_NCHW: Tensor, rows: Tensor) -> Tensor:
        """The images, each changed as its row says; shape and range 0…255 are kept."""
