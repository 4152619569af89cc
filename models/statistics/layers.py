"""From the statistics outputs of one batch to what is answered about each image."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from models.manifest import ModelManifest
from models.statistics import layout

Outputs = Mapping[str, NDArray[np.float32]]
Values = NDArray[np.float64]


class ChannelStatistics(BaseModel):
    """The values of every channel of one layer, in order; a value that is not finite is null."""

    mean: list[float | None]
    rms: list[float | None]
    active_fraction: list[float | None]
    maximum: list[float | None]
    minimum: list[float | None] | None
    saturated_fraction: list[float | None] | None


class LayerStatistics(BaseModel):
    """What one image did to one activation layer, over all positions and channels of its output x."""

    layer: str
    """Module path, e.g. `layer1.0.act1`."""
    activation: str
    mean: float | None
    rms: float | None
    """√(mean x²)"""
    active_fraction: float | None
    """Share of x > 0."""
    saturated_fraction: float | None
    """Share in the activation's saturation region; null where the output cannot show it."""
    maximum: float | None
    minimum: float | None
    """Null for activations that are never negative."""
    sparsity: float | None
    """Hoyer sparsity of the channel means: 0 when all channels are equal, 1 when a single one speaks."""
    finite: bool
    """False if the layer put out an infinity or a NaN; what cannot be computed is then null."""
    channels: ChannelStatistics | None = None


class BlockStatistics(BaseModel):
    """What one residual block added to its shortcut."""

    block: str
    residual_share: float | None
    """√(mean (y − s)² / mean s²), s the shortcut and y what leaves the block; null where s is zero or not finite."""


class ImageStatistics(BaseModel):
    """Everything measured for one image."""

    layers: list[LayerStatistics]
    blocks: list[BlockStatistics]


class StatisticsReader:
    """Reads the statistics outputs of one model; made once, it knows which columns belong to which layer."""

    def __init__(self, manifest: ModelManifest) -> None:
        self._manifest = manifest
        self._columns = {output: layout.site_columns(output, manifest) for output in layout.SITE_OUTPUTS}
        self._starts = {
            output: np.array([column.start for column in columns.values()], np.intp)
            for output, columns in self._columns.items()
        }
        self._positions = {
            output: np.array([index for index, site in enumerate(manifest.sites) if site.name in columns], np.intp)
            for output, columns in self._columns.items()
        }
        self._channels = np.array([site.channels for site in manifest.sites], np.float64)

    def layers(self, outputs: Outputs) -> dict[str, Values]:
        """Each statistic as images × layers, channels reduced; NaN where a layer does not have it.

        Keys: mean, rms, active_fraction, saturated_fraction, maximum, minimum, sparsity.
        """
        with np.errstate(all="ignore"):
            means = outputs[layout.MEAN].astype(np.float64)
            return {
                "mean": self._average(layout.MEAN, outputs),
                "rms": np.sqrt(self._average(layout.MEAN_SQUARE, outputs)),
                "active_fraction": self._average(layout.ACTIVE, outputs),
                "saturated_fraction": self._average(layout.SATURATED, outputs),
                "maximum": self._reduce(np.maximum, layout.MAXIMUM, outputs),
                "minimum": self._reduce(np.minimum, layout.MINIMUM, outputs),
                "sparsity": self._hoyer(means),
            }

    def blocks(self, outputs: Outputs) -> Values:
        """√(branch energy / shortcut energy) as images × blocks."""
        if not self._manifest.blocks:
            return np.empty((len(outputs[layout.MEAN]), 0))
        with np.errstate(all="ignore"):
            branch, shortcut = (outputs[name].astype(np.float64) for name in layout.BLOCK_OUTPUTS)
            shares: Values = np.sqrt(branch / shortcut)
            return shares

    def image(self, outputs: Outputs, row: int, channels: bool) -> ImageStatistics:
        """What is answered about image `row` of a batch, with the values of every channel if `channels`."""
        one = {name: values[row : row + 1] for name, values in outputs.items()}
        columns = {name: _numbers(values[0]) for name, values in self.layers(one).items()}
        layers = [
            LayerStatistics(
                layer=site.name,
                activation=site.activation,
                # One NaN or infinity among the squares is enough to make their mean not finite.
                finite=columns["rms"][index] is not None,
                channels=self._channel_statistics(one, site.name) if channels else None,
                **{name: values[index] for name, values in columns.items()},
            )
            for index, site in enumerate(self._manifest.sites)
        ]
        shares = _numbers(self.blocks(one)[0])
        blocks = [
            BlockStatistics(block=block.name, residual_share=share)
            for block, share in zip(self._manifest.blocks, shares, strict=True)
        ]
        return ImageStatistics(layers=layers, blocks=blocks)

    def _reduce(self, reduction: np.ufunc, output: str, outputs: Outputs) -> Values:
        """Reduce the columns of each layer in float64; NaN for layers without any."""
        images = len(outputs[layout.MEAN])
        reduced = np.full((images, len(self._channels)), np.nan)
        if output in outputs:
            values = outputs[output].astype(np.float64)
            reduced[:, self._positions[output]] = reduction.reduceat(values, self._starts[output], axis=1)
        return reduced

    def _average(self, output: str, outputs: Outputs) -> Values:
        return self._reduce(np.add, output, outputs) / self._channels

    def _hoyer(self, means: Values) -> Values:
        """(√n − ‖m‖₁/‖m‖₂)/(√n − 1) over the n channels of each layer; NaN for n = 1 and m = 0. Hoyer 2004."""
        starts = self._starts[layout.MEAN]
        ratio = np.add.reduceat(np.abs(means), starts, axis=1) / np.sqrt(np.add.reduceat(means**2, starts, axis=1))
        root = np.sqrt(self._channels)
        sparsity: Values = (root - ratio) / (root - 1)
        return sparsity

    def _channel_statistics(self, outputs: Outputs, site: str) -> ChannelStatistics:
        values = {
            output: outputs[output][0, columns[site]].astype(np.float64)
            for output, columns in self._columns.items()
            if site in columns
        }
        return ChannelStatistics(
            mean=_numbers(values[layout.MEAN]),
            rms=_numbers(np.sqrt(values[layout.MEAN_SQUARE])),
            active_fraction=_numbers(values[layout.ACTIVE]),
            maximum=_numbers(values[layout.MAXIMUM]),
            minimum=_numbers(values[layout.MINIMUM]) if layout.MINIMUM in values else None,
            saturated_fraction=_numbers(values[layout.SATURATED]) if layout.SATURATED in values else None,
        )


def _numbers(values: Values) -> list[float | None]:
    """Floats that JSON can carry: null for what is not finite."""
    return [
        value if finite else None for value, finite in zip(values.tolist(), np.isfinite(values).tolist(), strict=True)
    ]
