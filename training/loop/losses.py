"""The losses of an epoch: read from the device now and then, since reading waits for it."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.loop.world import World

# Steps between two readings on a GPU, which works while the program goes ahead; on the CPU nothing is gained by that.
INTERVAL = 20


@dataclass
class Losses:
    """Sums over the images of all processes."""

    world: World
    device: torch.device
    total: float = 0.0
    seen: int = 0
    newest: float = math.nan
    """Mean over the batch that was read last."""
    known: list[tuple[int, float]] = field(default_factory=list)
    """The steps that were read last, with the mean over the batch of each."""
    _waiting: list[tuple[int, Tensor, int]] = field(default_factory=list)

    @property
    def interval(self) -> int:
        """Steps between two readings."""
        return INTERVAL if self.device.type == "cuda" else 1

    def add(self, step: int, loss: Tensor, count: int) -> None:
        """The sum of the losses of this process's images, of `count` images in all."""
        self._waiting.append((step, loss, count))

    def read(self, wishes: list[bool]) -> tuple[list[bool], tuple[int, float] | None]:
        """Take in what was added: which `wishes` any process has, and the first step whose loss is no number."""
        values = torch.stack([loss for _, loss, _ in self._waiting])
        flags = torch.tensor([float(wish) for wish in wishes], dtype=values.dtype, device=values.device)
        numbers = self.world.sum(torch.cat([values, flags])).tolist()
        bad = None
        self.known = []
        for (step, _, count), loss in zip(self._waiting, numbers, strict=False):
            self.total += loss
            self.seen += count
            self.newest = loss / count
            self.known.append((step, self.newest))
            if bad is None and not math.isfinite(loss):
                bad = (step, self.newest)
        granted = [number > 0 for number in numbers[len(self._waiting) :]]
        self._waiting.clear()
        return granted, bad

    @property
    def mean(self) -> float:
        """Over all images of the epoch that were read."""
        return self.total / self.seen
