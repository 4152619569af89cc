"""How much is disturbed at a moment of training."""

from collections.abc import Callable, Iterable
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


def find_rates(network: nn.Module) -> list[Rate]:
    """Of every regulariser of `network`."""
    found = (getattr(module, "rate", None) for module in network.modules())
    return [rate for rate in found if isinstance(rate, Rate)]


def set_progress(rates: Iterable[Rate], fraction: float) -> None:
    """Tell each what share of training is done, 0…1."""
    assert 0 <= fraction <= 1
    for rate in rates:
        rate.progress = fraction
