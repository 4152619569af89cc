"""The learning rate of every step, given to an optimiser."""

import torch

from training.loop.schedule import Course, learning_rate
from training.recipes.recipe import Recipe


class Pace:
    """What a recipe's schedule says, times the `share` that each of the optimiser's groups learns at.

    Raises `ValueError` for an unknown schedule.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, recipe: Recipe, epoch_steps: int, steps: int) -> None:
        warmup = min(int(recipe.warmup_epochs * epoch_steps), steps - 1)
        self._course = Course(steps, warmup, recipe.learning_rate, recipe.milestones, recipe.drop)
        self._schedule, self._optimiser = recipe.schedule, optimiser
        self._shares = [group.pop("share") for group in optimiser.param_groups]
        self.set(0)

    def set(self, step: int) -> None:
        """For `step`, counted from 0 over all epochs."""
        rate = learning_rate(self._schedule, step, self._course)
        for group, share in zip(self._optimiser.param_groups, self._shares, strict=True):
            group["lr"] = share * rate
