"""What one image is reduced to: one number for each layer, block and property of the prediction."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.manifest import ActivationSite, ModelManifest
from models.statistics.layers import StatisticsReader

PREDICTION = "prediction"
"""The part that stands for what the network concluded, beside its layers and blocks."""

RESIDUAL_SHARE = "residual_share"
LAYER_SCALARS = (
    "mean",
    "rms",
    "active_fraction",
    "saturated_fraction",
    "maximum",
    "minimum",
    "sparsity",
    "mean_shift",
    "silent_channels",
)
PREDICTION_SCALARS = ("entropy", "margin", "energy")


class Scalar(NamedTuple):
    """One column of numbers: which part of the network, and what is said of it."""

    part: str
    """A layer, a block, or `prediction`."""
    statistic: str


class Scalars:
    """The scalars of one model, in an order that never changes for it."""

    def __init__(self, manifest: ModelManifest) -> None:
        self._reader = StatisticsReader(manifest)
        self._logits = manifest.logits.name
        layers = [(index, site, name) for index, site in enumerate(manifest.sites) for name in _measured_of(site)]
        starts = {name: start * len(manifest.sites) for start, name in enumerate(LAYER_SCALARS)}
        self._columns = np.array([starts[name] + index for index, _, name in layers])
        """Of each layer's scalar in the table of every statistic of every layer."""
        self.names: tuple[Scalar, ...] = (
            *(Scalar(site.name, name) for _, site, name in layers),
            *(Scalar(block.name, RESIDUAL_SHARE) for block in manifest.blocks),
            *(Scalar(PREDICTION, name) for name in PREDICTION_SCALARS),
        )

    def of(self, outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        """images × scalars for the outputs of an instrumented run; NaN where something was not finite."""
        measured = self._reader.layers(outputs)
        layers = np.concatenate([measured[name] for name in LAYER_SCALARS], 1)[:, self._columns]
        predictions = np.stack(list(prediction_scalars(outputs[self._logits]).values()), 1)
        rows = np.concatenate([layers, self._reader.blocks(outputs), predictions], 1)
        rows[~np.isfinite(rows)] = np.nan
        return rows


def prediction_scalars(logits: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """Of each image: the entropy −Σ p ln p (nats), the margin p₁ − p₂, and the energy −ln Σ exp(logit).

    Logits that are not finite give NaN. Energy: Liu et al. 2020, arXiv 2010.03759.
    """
    values = np.where(np.isfinite(logits).all(1, keepdims=True), logits, np.nan).astype(np.float64)
    with np.errstate(all="ignore"):
        shifted = values - values.max(1, keepdims=True)
        exponentials = np.exp(shifted)
        total = exponentials.sum(1)
        probabilities = exponentials / total[:, None]
        best = np.partition(probabilities, -2, axis=1)
        return {
            "entropy": np.log(total) - (probabilities * shifted).sum(1),
            "margin": best[:, -1] - best[:, -2],
            "energy": -(values.max(1) + np.log(total)),
        }


def _measured_of(site: ActivationSite) -> list[str]:
    """The scalars that this layer can have at all."""
    missing = {
        "saturated_fraction": site.saturation is None,
        "minimum": not site.signed,
        "silent_channels": not site.zero_is_dead,
        "sparsity": site.channels == 1,
    }
    return [name for name in LAYER_SCALARS if not missing.get(name, False)]
