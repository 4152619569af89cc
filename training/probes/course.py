"""How training goes as a whole, for those who keep readings of its layers: losses, learning rate and accuracy."""

import math
from collections.abc import Sequence

from training.loop.watch import Moment, Watch
from training.probes.keepers import Keeper

EVERY = 20
"""Steps from one loss that is told to the next."""


class CourseWatch(Watch):
    """Tells the loss of every 20th step, and of each epoch what the history has."""

    every = EVERY

    def __init__(self, keepers: Sequence[Keeper]) -> None:
        self.keepers = keepers
        self._rates: dict[int, float] = {}

    def before_training(self, step: int) -> None:
        for keeper in self.keepers:
            keeper.begin(step)

    def before_step(self, moment: Moment) -> None:
        self._rates[moment.step] = moment.learning_rate

    def after_losses(self, losses: Sequence[tuple[int, float]]) -> None:
        for step, loss in losses:
            rate = self._rates.pop(step, None)
            if rate is not None and math.isfinite(loss):
                self._tell("steps", step, {"loss": loss, "learning_rate": rate})

    def after_epoch(self, moment: Moment, entry: dict[str, float]) -> None:
        # The mean loss over an epoch has a name of its own.
        self._tell("epochs", moment.step, {"epoch_loss" if name == "loss" else name: entry[name] for name in entry})

    def _tell(self, series: str, step: int, values: dict[str, float]) -> None:
        for keeper in self.keepers:
            keeper.tell(series, step, values)
