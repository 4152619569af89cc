"""Who may look on while a network is trained."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Moment:
    """Where training is."""

    step: int
    """Which step of the optimiser it is, counted from 0 over all epochs."""
    epoch: int
    """Whole epochs that are done."""
    model: nn.Module
    """What is trained, with its gradients where there are any; not its average."""
    optimiser: torch.optim.Optimizer
    learning_rate: float


class Watch:
    """Called in every step in which `step` is a multiple of `every`; what it does not override costs nothing more.

    It may read, and put hooks on the model between `before_step` and `after_step`; it must not draw random numbers from
    PyTorch's own generator, or the weights would depend on who looks on.
    """

    every: int = 1
    hooks = False
    """Whether it puts any: such a step is not compiled."""

    def before_training(self, step: int) -> None:
        """Before `step`, the first that is made now.

        What came of it and of later ones before, in a run that was killed, comes once more; what came of earlier ones
        does not, and all of it came.
        """

    def before_step(self, moment: Moment) -> None:
        """Before the images of the step go forward."""

    def after_backward(self, moment: Moment) -> None:
        """With the gradients of the step, neither clipped nor scaled."""

    def after_step(self, moment: Moment) -> None:
        """With the new weights, and the gradients that led to them."""

    def after_losses(self, losses: Sequence[tuple[int, float]]) -> None:
        """When losses are read, in any step: those of the steps since the last time, over the images of all processes.

        On the CPU that is before `after_backward` of the same step, on a GPU up to 20 steps later.
        """

    def after_epoch(self, moment: Moment, entry: dict[str, float]) -> None:
        """With what the history has of the epoch, losses and accuracy, before the state is saved."""


class Together(Watch):
    """Several as one."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        self._watches = watches

    def before_training(self, step: int) -> None:
        for watch in self._watches:
            watch.before_training(step)

    def before_step(self, moment: Moment) -> None:
        for watch in self._watches:
            watch.before_step(moment)

    def after_losses(self, losses: Sequence[tuple[int, float]]) -> None:
        for watch in self._watches:
            watch.after_losses(losses)

    def after_backward(self, moment: Moment) -> None:
        for watch in self._watches:
            watch.after_backward(moment)

    def after_step(self, moment: Moment) -> None:
        for watch in self._watches:
            watch.after_step(moment)

    def after_epoch(self, moment: Moment, entry: dict[str, float]) -> None:
        for watch in self._watches:
            watch.after_epoch(moment, entry)
