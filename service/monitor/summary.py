"""What is answered about a window: moments and quantiles of every layer, with the baseline's beside them."""

import math
from typing import TypeVar

import numpy as np
from pydantic import ConfigDict

from models.manifest import ActivationSite, ModelManifest
from models.statistics import layout
from models.statistics.histograms import quantile
from models.statistics.scalars import PREDICTION, RESIDUAL_SHARE, Scalars
from models.statistics.window import Window
from service.protocol.described import Described

QUANTILES = {"p01": 0.01, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
RARELY = 0.01
"""A channel fires rarely when it does in a smaller share of images."""


class Part(Described):
    model_config = ConfigDict(frozen=True)


P = TypeVar("P", bound=Part)


class Distribution(Part):
    """One number of each image, over the images of a window."""

    count: int
    """Images for which it was finite."""
    mean: float | None
    std: float | None
    quantiles: dict[str, float | None]
    """p01 … p99, each the middle of its bin: within 10 %."""


class LayerWindow(Part):
    """One activation layer over the images of a window."""

    layer: str
    activation: str
    channels: int
    scalars: dict[str, Distribution]
    """Distributions over images of what `statistics=layers` answers for one."""
    maximum: float | None
    minimum: float | None
    """Null for activations that are never negative."""
    never_fired: int | None
    """Channels that were active in no image at all; null where there was none."""
    rarely_fired: int | None
    """Channels that were active in less than 1 % of the images, those included."""
    not_finite_channels: int
    """Channels that put out an infinity or a NaN in any image."""
    not_finite_images: int
    """Most images in which one of them did."""
    rank: float | None
    """Effective rank of the channel means; it grows with the number of images."""
    baseline: "LayerWindow | None" = None


class BlockWindow(Part):
    block: str
    residual_share: Distribution
    baseline: "BlockWindow | None" = None


class PredictionWindow(Part):
    """What the network concluded."""

    scalars: dict[str, Distribution]
    """entropy, margin, energy"""
    baseline: "PredictionWindow | None" = None


class PredictedClass(Part):
    label: str
    index: int
    images: int
    share: float | None
    baseline: "PredictedClass | None" = None


class WindowSummary(Part):
    """Everything about one window."""

    images: int
    judged: int
    """Images that were compared one by one with those that the network knows; 0 without a baseline."""
    unusual: int
    """Of those, the ones with p < 0.01."""
    layers: list[LayerWindow]
    blocks: list[BlockWindow]
    prediction: PredictionWindow
    predicted: list[PredictedClass]


def summary(window: Window, manifest: ModelManifest, baseline: Window | None = None) -> WindowSummary:
    """Summarise a window; the parts of a baseline stand beside its own."""
    found = _Summariser(manifest, window).summary()
    if baseline is None:
        return found
    usual = _Summariser(manifest, baseline).summary()
    return WindowSummary(
        images=found.images,
        judged=found.judged,
        unusual=found.unusual,
        layers=[_beside(part, other) for part, other in zip(found.layers, usual.layers, strict=True)],
        blocks=[_beside(part, other) for part, other in zip(found.blocks, usual.blocks, strict=True)],
        prediction=_beside(found.prediction, usual.prediction),
        predicted=[_beside(part, other) for part, other in zip(found.predicted, usual.predicted, strict=True)],
    )


def _beside(part: P, other: P) -> P:
    return part.model_copy(update={"baseline": other})


class _Summariser:
    def __init__(self, manifest: ModelManifest, window: Window) -> None:
        self._manifest = manifest
        self._window = window
        names = Scalars(manifest).names
        std = np.sqrt(window.scalars.variance)
        quantiles = {name: quantile(window.histograms, q) for name, q in QUANTILES.items()}
        self._of: dict[str, dict[str, Distribution]] = {}
        """By part and statistic."""
        for k, (part, statistic) in enumerate(names):
            self._of.setdefault(part, {})[statistic] = Distribution(
                count=int(window.scalars.count[k]),
                mean=_number(window.scalars.mean[k]) if window.scalars.count[k] else None,
                std=_number(std[k]),
                quantiles={name: _number(values[k]) for name, values in quantiles.items()},
            )

    def summary(self) -> WindowSummary:
        window, manifest = self._window, self._manifest
        columns = layout.site_columns(layout.MEAN, manifest)
        signed = layout.site_columns(layout.MINIMUM, manifest)
        total = int(window.predicted.sum())
        return WindowSummary(
            images=window.images,
            judged=window.judged,
            unusual=window.unusual,
            layers=[
                self._layer(index, site, columns[site.name], signed.get(site.name))
                for index, site in enumerate(manifest.sites)
            ],
            blocks=[
                BlockWindow(block=block.name, residual_share=self._of[block.name][RESIDUAL_SHARE])
                for block in manifest.blocks
            ],
            prediction=PredictionWindow(scalars=self._of[PREDICTION]),
            predicted=[
                PredictedClass(label=label, index=index, images=count, share=count / total if total else None)
                for index, (label, count) in enumerate(
                    zip(manifest.class_names, window.predicted.tolist(), strict=True)
                )
            ],
        )

    def _layer(self, index: int, site: ActivationSite, columns: slice, signed: slice | None) -> LayerWindow:
        window = self._window
        fired, not_finite = window.fired[columns], window.not_finite[columns]
        return LayerWindow(
            layer=site.name,
            activation=site.activation,
            channels=site.channels,
            scalars=self._of[site.name],
            maximum=_number(window.maximum[columns].max()),
            minimum=None if signed is None else _number(window.minimum[signed].min()),
            never_fired=int((fired == 0).sum()) if window.images else None,
            rarely_fired=int(((fired == 0) | (fired < RARELY * window.images)).sum()) if window.images else None,
            not_finite_channels=int((not_finite > 0).sum()),
            not_finite_images=int(not_finite.max()),
            rank=_number(window.spreads[index].rank),
        )


def _number(value: float) -> float | None:
    """A float that JSON can carry."""
    return float(value) if math.isfinite(value) else None
