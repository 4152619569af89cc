"""Who may look on while a network is trained."""

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

    def before_step(self, moment: Moment) -> None:
        """Before the images of the step go forward."""

    def after_backward(self, moment: Moment) -> None:
        """With the gradients of the step, neither clipped nor scaled."""

    def after_step(self, moment: Moment) -> None:
        """With the new weights, and the gradients that led to them."""

    def after_epoch(self, moment: Moment, entry: dict[str, float]) -> None:
        """With what the history has of the epoch: losses and accuracy."""
