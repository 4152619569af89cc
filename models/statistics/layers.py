"""From the statistics outputs of one batch to what is answered about each image."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from models.manifest import ModelManifest
from models.statistics import layout

Outputs = Mapping[str, NDArray[np.float32]]
Columns = NDArray[np.float64]


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


def image_statistics(outputs: Outputs, manifest: ModelManifest, row: int, channels: bool) -> ImageStatistics:
    """The statistics of image `row` of a batch, with the values of every channel if `channels`."""
    values = {name: outputs[name][row].astype(np.float64) for name in layout.output_widths(manifest)}
    with np.errstate(all="ignore"):
        return ImageStatistics(layers=_layers(values, manifest, channels), blocks=_blocks(values, manifest))


def layer_scalars(values: Mapping[str, Columns], manifest: ModelManifest) -> dict[str, dict[str, Columns]]:
    """Reduce the channels of each site to one number: {output: {site: value}}; leading axes (images) are kept."""
    scalars: dict[str, dict[str, Columns]] = {}
    for output, reduction in _REDUCTIONS.items():
        columns = layout.site_columns(output, manifest)
        if not columns:
            scalars[output] = {}
            continue
        reduced = reduction.reduceat(values[output], [column.start for column in columns.values()], axis=-1)
        if reduction is np.add:
            reduced = reduced / np.array([column.stop - column.start for column in columns.values()])
        scalars[output] = {name: reduced[..., index] for index, name in enumerate(columns)}
    return scalars


_REDUCTIONS: dict[str, np.ufunc] = {
    layout.MEAN: np.add,
    layout.MEAN_SQUARE: np.add,
    layout.ACTIVE: np.add,
    layout.SATURATED: np.add,
    layout.MAXIMUM: np.maximum,
    layout.MINIMUM: np.minimum,
}


def residual_shares(values: Mapping[str, Columns]) -> Columns:
    """√(branch energy / shortcut energy) for every block."""
    shares: Columns = np.sqrt(values[layout.BRANCH_ENERGY] / values[layout.SHORTCUT_ENERGY])
    return shares


def hoyer_sparsity(values: Columns) -> Columns:
    """(√n − ‖v‖₁/‖v‖₂)/(√n − 1) over the last axis; NaN for n = 1 and for v = 0. Hoyer 2004."""
    root = np.sqrt(values.shape[-1])
    ratio = np.abs(values).sum(-1) / np.sqrt((values**2).sum(-1))
    sparsity: Columns = (root - ratio) / (root - 1)
    return sparsity


def _layers(values: Mapping[str, Columns], manifest: ModelManifest, channels: bool) -> list[LayerStatistics]:
    scalars = layer_scalars(values, manifest)
    columns = {output: layout.site_columns(output, manifest) for output in layout.SITE_OUTPUTS}
    layers = []
    for site in manifest.sites:
        by_channel = {
            output: values[output][columns[output][site.name]] for output in columns if site.name in columns[output]
        }
        square = scalars[layout.MEAN_SQUARE][site.name]
        layers.append(
            LayerStatistics(
                layer=site.name,
                activation=site.activation,
                mean=_number(scalars[layout.MEAN][site.name]),
                rms=_number(np.sqrt(square)),
                active_fraction=_number(scalars[layout.ACTIVE][site.name]),
                saturated_fraction=_number(scalars[layout.SATURATED].get(site.name)),
                maximum=_number(scalars[layout.MAXIMUM][site.name]),
                minimum=_number(scalars[layout.MINIMUM].get(site.name)),
                sparsity=_number(hoyer_sparsity(by_channel[layout.MEAN])),
                # One NaN or infinity among the squares is enough to make their mean not finite.
                finite=bool(np.isfinite(square)),
                channels=_channels(by_channel) if channels else None,
            )
        )
    return layers


def _blocks(values: Mapping[str, Columns], manifest: ModelManifest) -> list[BlockStatistics]:
    if not manifest.blocks:
        return []
    shares = residual_shares(values)
    return [
        BlockStatistics(block=block.name, residual_share=_number(share))
        for block, share in zip(manifest.blocks, shares, strict=True)
    ]


def _channels(values: Mapping[str, Columns]) -> ChannelStatistics:
    return ChannelStatistics(
        mean=_numbers(values[layout.MEAN]),
        rms=_numbers(np.sqrt(values[layout.MEAN_SQUARE])),
        active_fraction=_numbers(values[layout.ACTIVE]),
        maximum=_numbers(values[layout.MAXIMUM]),
        minimum=_numbers(values[layout.MINIMUM]) if layout.MINIMUM in values else None,
        saturated_fraction=_numbers(values[layout.SATURATED]) if layout.SATURATED in values else None,
    )


def _numbers(values: Columns) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: Columns | np.float64 | None) -> float | None:
    """A float that JSON can carry, or None."""
    return None if value is None or not np.isfinite(value) else float(value)
