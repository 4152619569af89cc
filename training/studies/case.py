"""One run of a study: everything that sets it apart, and its name."""

from dataclasses import asdict, dataclass
from typing import Any

from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig


@dataclass(frozen=True)
class Case:
    """One run."""

    network: str
    activation: str
    arrangement: str
    initialiser: str
    normaliser: str
    learning_rate: float
    epochs: int
    batch_size: int
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return "-".join(f"{value:g}" if isinstance(value, float) else str(value) for value in asdict(self).values())

    def axes(self) -> dict[str, str]:
        """What may differ between the groups of a study, as text."""
        return {axis: f"{value:g}" if isinstance(value := getattr(self, axis), float) else value for axis in AXES}

    def network_config(self, classes: int, channels: int) -> NetworkConfig:
        """For images of so many channels and classes."""
        return NetworkConfig(
            self.network, self.activation, self.arrangement, classes, channels, normaliser=self.normaliser
        )

    def recipe(self) -> Recipe:
        """What is not an axis is at its default."""
        given: dict[str, Any] = {
            name: getattr(self, name) for name in ("epochs", "batch_size", "learning_rate", "seed")
        }
        return Recipe(initialiser=self.initialiser, **given)


AXES = ("network", "activation", "arrangement", "initialiser", "normaliser", "learning_rate")
"""In the order of the tables; seeds are what a group of runs is summarised over."""
