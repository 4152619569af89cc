"""From the statistics outputs of one batch to what is answered about each image."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from models.manifest import ActivationSite, ModelManifest
from models.statistics import layout

Outputs = Mapping[str, NDArray[np.float32]]
Values = NDArray[np.float64]

_SILENT = "silent"
"""Which channels put out nothing but zeros: it follows from the outputs of the graph, and is none of them."""


class ChannelStatistics(BaseModel):
    """The values of every channel of one layer, in order; all null for a channel that is not finite."""

    mean: list[float | None]
    rms: list[float | None]
    active_fraction: list[float | None]
    maximum: list[float | None]
    minimum: list[float | None] | None
    saturated_fraction: list[float | None] | None
    silent: list[bool | None] | None
    """Whether the channel put out nothing but zeros; null as a whole where that does not mean a dead unit."""


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
    mean_shift: float | None
    """Σ m² / Σ q² over the channels, m their means and q² their mean squares: 0 when each is centred, 1 when each is
    constant; null for a layer of zeros."""
    silent_channels: int | None
    """Channels that put out nothing but zeros; null where a zero does not mean a dead unit, or nobody knows."""
    finite: bool
    """False if the layer put out an infinity or a NaN; all that is measured is then null."""
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
        sites = manifest.sites
        self._manifest = manifest
        self._columns = {output: layout.site_columns(output, manifest) for output in layout.SITE_OUTPUTS}
        self._columns[_SILENT] = self._columns[layout.MAXIMUM]
        self._starts = {
            output: np.array([column.start for column in columns.values()], np.intp)
            for output, columns in self._columns.items()
        }
        self._has = {
            output: np.array([site.name in columns for site in sites]) for output, columns in self._columns.items()
        }
        """For each output, which layers have it."""
        self._channels = np.array([site.channels for site in sites], np.intp)
        self._zero_is_dead = self._for_each_channel(np.array([site.zero_is_dead is True for site in sites]))

    def layers(self, outputs: Outputs) -> dict[str, Values]:
        """Each statistic as images × layers, channels reduced; NaN where a layer does not have it or is not finite.

        Keys: mean, rms, active_fraction, saturated_fraction, maximum, minimum, sparsity, mean_shift, silent_channels.
        """
        return self._reduced(self.measured(outputs))

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
        measured = self.measured(one)
        columns = {name: _numbers(values[0]) for name, values in self._reduced(measured).items()}
        silent = columns.pop("silent_channels")
        layers = [
            LayerStatistics(
                layer=site.name,
                activation=site.activation,
                # One NaN or infinity among the squares is enough to make their mean not finite.
                finite=columns["rms"][index] is not None,
                silent_channels=None if (count := silent[index]) is None else int(count),
                channels=self._channel_statistics(measured, site) if channels else None,
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

    def measured(self, outputs: Outputs) -> Outputs:
        """The outputs of sites, and which channels are silent; all NaN for a channel that is not finite.

        Its shares and extremes would only tell how an operator happens to compare with NaN.
        """
        measured = {name: outputs[name] for name in layout.SITE_OUTPUTS if name in outputs}
        finite = np.isfinite(measured[layout.MEAN_SQUARE])
        if not finite.all():
            measured = {
                name: np.where(finite[:, self._for_each_channel(self._has[name])], values, np.float32(np.nan))
                for name, values in measured.items()
            }
        return measured | {_SILENT: self._silent(measured)}

    def _silent(self, measured: Outputs) -> NDArray[np.float32]:
        """1 for a channel of nothing but zeros, else 0; NaN where zeros do not mean a dead unit."""
        # Of values that are at most 0, only zeros have the mean 0.
        silent = (measured[layout.MAXIMUM] == 0) & (measured[layout.MEAN] == 0)
        known = self._zero_is_dead & np.isfinite(measured[layout.MEAN])
        return np.where(known, silent, np.float32(np.nan))

    def _reduced(self, measured: Outputs) -> dict[str, Values]:
        means = measured[layout.MEAN].astype(np.float64)
        with np.errstate(all="ignore"):
            mean_squares = self._sum(measured[layout.MEAN_SQUARE])
            squared_means = self._sum(means**2)
            return {
                "mean": self._average(layout.MEAN, measured),
                "rms": np.sqrt(mean_squares / self._channels),
                "active_fraction": self._average(layout.ACTIVE, measured),
                "saturated_fraction": self._average(layout.SATURATED, measured),
                "maximum": self._reduce(np.maximum, layout.MAXIMUM, measured, np.float32),
                "minimum": self._reduce(np.minimum, layout.MINIMUM, measured, np.float32),
                "sparsity": self._hoyer(self._sum(np.abs(means)), squared_means),
                "mean_shift": squared_means / mean_squares,
                "silent_channels": self._sum(measured[_SILENT]),
            }

    def _for_each_channel(self, by_layer: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.repeat(by_layer, self._channels)

    def _sum(self, values: NDArray[np.floating]) -> Values:
        """Sum over the channels of each layer of something that every layer has."""
        summed: Values = np.add.reduceat(values, self._starts[layout.MEAN], axis=1, dtype=np.float64)
        return summed

    def _reduce(
        self, reduction: np.ufunc, output: str, measured: Outputs, precision: type[np.floating] = np.float64
    ) -> Values:
        """Reduce the columns of each layer; NaN for layers without any."""
        reduced = np.full((len(measured[layout.MEAN]), len(self._channels)), np.nan)
        if output in measured:
            values = measured[output]
            reduced[:, self._has[output]] = reduction.reduceat(values, self._starts[output], axis=1, dtype=precision)
        return reduced

    def _average(self, output: str, measured: Outputs) -> Values:
        return self._reduce(np.add, output, measured) / self._channels

    def _hoyer(self, absolute: Values, squares: Values) -> Values:
        """(√n − ‖m‖₁/‖m‖₂)/(√n − 1) over the n channels of each layer, from the sums ‖m‖₁ and ‖m‖₂²; NaN for n = 1 and
        m = 0. Hoyer 2004.
        """
        root = np.sqrt(self._channels)
        sparsity: Values = (root - absolute / np.sqrt(squares)) / (root - 1)
        return sparsity

    def _channel_statistics(self, measured: Outputs, site: ActivationSite) -> ChannelStatistics:
        values = {
            name: measured[name][0, columns[site.name]].astype(np.float64)
            for name, columns in self._columns.items()
            if site.name in columns
        }
        return ChannelStatistics(
            mean=_numbers(values[layout.MEAN]),
            rms=_numbers(np.sqrt(values[layout.MEAN_SQUARE])),
            active_fraction=_numbers(values[layout.ACTIVE]),
            maximum=_numbers(values[layout.MAXIMUM]),
            minimum=_numbers(values[layout.MINIMUM]) if layout.MINIMUM in values else None,
            saturated_fraction=_numbers(values[layout.SATURATED]) if layout.SATURATED in values else None,
            silent=_booleans(values[_SILENT]) if site.zero_is_dead else None,
        )


def _numbers(values: Values) -> list[float | None]:
    """Floats that JSON can carry: null for what is not finite."""
    return [
        value if finite else None for value, finite in zip(values.tolist(), np.isfinite(values).tolist(), strict=True)
    ]


def _booleans(values: Values) -> list[bool | None]:
    return [None if number is None else bool(number) for number in _numbers(values)]
