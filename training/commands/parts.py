"""What a network is made of beside its name, as commands take it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.resnet.network import NetworkConfig


@dataclass(frozen=True)
class Parts:
    """Keys of the catalogues, with their parameters."""

    activation: str = "relu"
    """Key of the activation catalogue; `python -m training activations` lists it."""
    activation_parameters: Mapping[str, float] = field(default_factory=dict)
    """Parameters of the activation by name, for example `alpha 0.5`."""
    arrangement: str = "original"
    """Key of the arrangement catalogue."""
    shortcut: str = "identity"
    """Key of the catalogue of shortcuts."""
    shortcut_parameters: Mapping[str, float] = field(default_factory=dict)
    """Parameters of the shortcut by name, for example `bias -7`."""
    normaliser: str = "batch"
    """Key of the normaliser catalogue."""
    head: str = "linear"
    """Key of the head catalogue."""

    def network(
        self, name: str, classes: int, channels: int, regularisers: Mapping[str, float] | None = None
    ) -> NetworkConfig:
        """The network of this name that is made of them."""
        return NetworkConfig(
            name,
            self.activation,
            self.arrangement,
            classes,
            channels,
            self.activation_parameters,
            self.shortcut,
            self.shortcut_parameters,
            self.normaliser,
            self.head,
            regularisers or {},
        )
