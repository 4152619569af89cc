"""How much is disturbed at a moment of training."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

# Progress of training, 0…1 → the share of the full rate that holds then.
Schedule = Callable[[float], float]


@dataclass
class Rate:
    """now = full · schedule(progress); it belongs to one module, as its attribute `rate`."""

    full: float
    schedule: Schedule
    progress: float = 0.0

    @property
    def now(self) -> float:
        """The rate at this moment."""
        return self.full * self.schedule(self.progress)


def set_progress(network: nn.Module, fraction: float) -> None:
    """Tell every regulariser of `network` what share of training is done, 0…1."""
    assert 0 <= fraction <= 1
    for module in network.modules():
        rate = getattr(module, "rate", None)
        if isinstance(rate, Rate):
            rate.progress = fraction
