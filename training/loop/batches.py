"""The batches of an epoch: their order, what is done to their images, and the share of them that this process has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from training.augmentations.crop import RandomCrop
from training.augmentations.entry import Augmentation
from training.augmentations.erasing import RandomErasing
from training.augmentations.mixing import draw_mixing
from training.augmentations.rand_augment import RandAugment
from training.data.images import DataSet, channel_moments
from training.loop.world import World
from training.recipes.recipe import Recipe


@dataclass(frozen=True)
class Position:
    """How far an epoch has come, and the state of the generator of its draws there."""

    done: int
    generator: Tensor


class Batches:
    """`steps` batches an epoch, each image once; a last batch of one, which cannot be normalised, is left out.

    Order and draws are those of the whole batch in every process, which then takes its share of the images: so they do
    not depend on how many processes there are. Raises `ValueError` where a share would be empty.
    """

    def __init__(self, data: DataSet, recipe: Recipe, device: torch.device, world: World) -> None:
        self.data, self.recipe, self.device, self.world = data, recipe, device, world
        self.steps = (len(data.training) + recipe.batch_size - 2) // recipe.batch_size
        self.generator = torch.Generator()
        self.augmentations = augmentations(data, recipe)
        for step in (0, self.steps - 1):
            smallest = min(part.stop - part.start for part in self._parts(step))
            if smallest < world.size:
                raise ValueError(
                    f"batch {step + 1} of {self.count(step)} images is too small for {world.size} processes with "
                    f" --accumulation {recipe.accumulation}: choose another --batch-size"
                )

    def count(self, step: int) -> int:
        """Images in a batch, of all processes together."""
        return min(self.recipe.batch_size, len(self.data.training) - step * self.recipe.batch_size)

    def _parts(self, step: int) -> list[slice]:
        """Of the whole batch, those that go through the network one after the other; each of two images at least."""
        count = self.count(step)
        parts = max(1, min(self.recipe.accumulation, count // 2))
        edges = [round(number * count / parts) for number in range(parts + 1)]
        return [slice(start, stop) for start, stop in pairwise(edges)]

    def shares(self, step: int) -> list[slice]:
        """Of each part the places in the whole batch that this process has."""
        found = []
        for part in self._parts(step):
            share = self.world.part(part.stop - part.start)
            found.append(slice(part.start + share.start, part.start + share.stop))
        return found

    def epoch(self, seed: int, position: Position | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of this process, part after part; of mixed images how much they are of each class."""
        self.generator.manual_seed(seed)
        images = self.data.training
        order = torch.randperm(len(images), generator=self.generator).numpy()
        if position is not None:
            self.generator.set_state(position.generator)
        for step in range(position.done if position else 0, self.steps):
            start = step * self.recipe.batch_size
            chosen = np.sort(order[start : start + self.count(step)])
            places = np.concatenate([np.arange(share.start, share.stop) for share in self.shares(step)])
            yield self._batch(chosen, places)

    def position(self, done: int) -> Position:
        """To go on from after `done` batches of the epoch at hand."""
        return Position(done, self.generator.get_state())

    def _batch(self, chosen: np.ndarray, places: np.ndarray) -> tuple[Tensor, Tensor]:
        recipe, images = self.recipe, self.data.training
        draws = [each.draw(len(chosen), self.generator) for each in self.augmentations]
        if not (recipe.mixup_alpha or recipe.cutmix_alpha):
            return self._images(chosen, draws, places), self._labels(chosen[places])
        height, width = images.pixels.shape[2:]
        mixing = draw_mixing(len(chosen), (height, width), recipe.mixup_alpha, recipe.cutmix_alpha, self.generator)
        partners = mixing.partners.numpy()[places]
        # Each image that is needed is changed once, as itself and as a partner alike.
        needed, where = np.unique(np.concatenate([places, partners]), return_inverse=True)
        changed = self._images(chosen, draws, needed)
        own, other = torch.from_numpy(where).to(self.device).reshape(2, -1)
        targets = mixing.target(
            self._labels(chosen[places]), self._labels(chosen[partners]), len(self.data.class_names)
        )
        return mixing.blend(changed[own], changed[other]), targets

    def _images(self, chosen: np.ndarray, draws: Sequence[Tensor], places: np.ndarray) -> Tensor:
        pixels = self._sent(self.data.training.pixels[chosen[places]])
        for augmentation, rows in zip(self.augmentations, draws, strict=True):
            pixels = augmentation.apply(pixels, rows[torch.from_numpy(places)])
        return pixels.float()

    def _labels(self, chosen: np.ndarray) -> Tensor:
        return self._sent(self.data.training.labels[chosen])

    def _sent(self, values: np.ndarray) -> Tensor:
        """To the device; a GPU fetches it itself from memory that stays, and the program goes ahead meanwhile."""
        tensor = torch.from_numpy(values)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


def augmentations(data: DataSet, recipe: Recipe) -> list[Augmentation]:
    """What the recipe does to each image, in order."""
    height, width = data.training.pixels.shape[2:]
    padding = min(height, width) // 8 if recipe.crop_padding is None else recipe.crop_padding
    found: list[Augmentation] = [RandomCrop(padding, data.mirrored)]
    if recipe.rand_augment:
        found.append(RandAugment(recipe.rand_augment, recipe.rand_augment_strength))
    if recipe.random_erasing:
        found.append(RandomErasing(recipe.random_erasing, channel_moments(data.training.pixels)[0]))
    return found
