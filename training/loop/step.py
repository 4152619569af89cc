"""One step of the optimiser: the batch forward and back, part by part, and the weights moved."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.loop.precision import Precision
from training.loop.world import World, present
from training.recipes.recipe import Recipe


@dataclass(frozen=True)
class Step:
    """What a step needs, the same in each."""

    forward: nn.Module
    """The network, shared between processes and compiled where that is so."""
    parallel: nn.Module
    """The same, not compiled."""
    optimiser: torch.optim.Optimizer
    precision: Precision
    recipe: Recipe
    world: World
    class_weights: Tensor | None

    def gradients(
        self, images: Tensor, targets: Tensor, shares: list[slice], count: int, compiled: bool = True
    ) -> Tensor:
        """Gradients of the mean loss over `count` images in all, of which this process has `images` in `shares`.

        Returns the sum of the losses of `images`. What would have to be compiled anew, a batch of another size or a
        network with hooks, is better not `compiled`. Raises `LostProcessError` when another process is gone.
        """
        forward = self.forward if compiled else self.parallel
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=images.device)
        sizes = [share.stop - share.start for share in shares]
        parts = zip(torch.split(images, sizes), torch.split(targets, sizes), strict=True)
        for number, (some, wanted) in enumerate(parts, start=1):
            with present(self.world), self._alone(number < len(sizes)):
                with self.precision.cast():
                    loss = self._loss(forward(some), wanted)
                # Processes' gradients are averaged, parts' are added.
                self.precision.backward(loss * (self.world.size * len(some) / count))
            total += loss.detach().double() * len(some)
        self.precision.unscale(self.optimiser)
        return total

    def update(self) -> None:
        """Move the weights."""
        if self.recipe.clip_norm:
            parameters = [each for group in self.optimiser.param_groups for each in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.recipe.clip_norm)
        self.precision.step(self.optimiser)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        smoothing = self.recipe.label_smoothing
        if self.class_weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)
        # Weights have the mean 1 over all images: so the mean is over images, not over the weights of this batch.
        total = F.cross_entropy(logits, targets, self.class_weights, reduction="sum", label_smoothing=smoothing)
        return total / len(targets)

    def _alone(self, alone: bool) -> Any:
        """Without exchange of gradients, which the last part brings for all."""
        return (
            self.parallel.no_sync() if alone and isinstance(self.parallel, DistributedDataParallel) else nullcontext()
        )
