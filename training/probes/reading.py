"""What a probe found, one entry for each layer in the order of depth."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerReading:
    """One activation site, over all images of a batch."""

    name: str
    """Module path in the network, as in manifests: `layer1.0.act1`."""
    mean: float
    """Of the output, over images, channels and positions."""
    std: float
    saturated: float | None
    """Share of the inputs where |f′| is below 1 % of its maximum; None where f has more than one input.

    Where parameters are learned: by the values that they start from.
    """
    dead_units: float | None
    """Share of the units, a channel at a position, that are saturated for every image: none of them lets them learn."""
    dead_channels: float | None
    """Share of the channels whose units are all dead."""
    rank: float
    """Participation ratio (tr Σ)²/tr Σ² of the channels' means by image: at most images − 1, or channels."""
    learned: dict[str, tuple[float, float, float]]
    """Mean, smallest and largest value of each learned parameter."""
    usual: float = 0.5
    """Share of saturated inputs, were they N(0, 1)."""

    @property
    def mean_shift(self) -> float | None:
        """|mean| / std; None where the output is constant or no number."""
        if not (math.isfinite(self.mean) and math.isfinite(self.std)) or self.std == 0:
            return None
        return abs(self.mean) / self.std


@dataclass(frozen=True)
class WeightReading:
    """The weights of one convolution or linear layer."""

    name: str
    gradient_rms: float | None
    """Root mean square of ∂loss/∂weight; None where no gradient came."""
    weight_rms: float
    update_ratio: float | None = None
    """RMS of what a step of the optimiser changed, divided by that of the weights; None where no step was watched."""


@dataclass(frozen=True)
class NetworkReading:
    """All layers at one moment."""

    layers: tuple[LayerReading, ...]
    weights: tuple[WeightReading, ...]
    loss: float | None = None
    """Mean cross-entropy over the batch, in nats."""
