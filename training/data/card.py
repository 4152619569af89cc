"""The data card of a data set, for its manifest, the record of a run and people."""

import numpy as np
from numpy.typing import NDArray

from models.card import ClassCount, DataCard, SizeSpread
from training.data.images import DataSet, channel_moments, digest

LISTED = 100
"""Skipped images; the others are counted."""


def data_card(data: DataSet) -> DataCard:
    """Count, measure and identify the images of both splits."""
    classes = len(data.class_names)
    training, held_out = (np.bincount(part.labels, minlength=classes) for part in (data.training, data.held_out))
    moments = channel_moments((data.training if len(data.training) else data.held_out).pixels)
    weights = data.class_weights or (None,) * classes
    rows = zip(data.class_names, training.tolist(), held_out.tolist(), weights, strict=True)
    return DataCard(
        name=data.name,
        source=data.source,
        digest=digest(data),
        training_images=len(data.training),
        held_out_images=len(data.held_out),
        classes=tuple(ClassCount(name=name, training=m, held_out=n, weight=weight) for name, m, n, weight in rows),
        widths=None if data.sizes is None else _spread(data.sizes[:, 0]),
        heights=None if data.sizes is None else _spread(data.sizes[:, 1]),
        channel_means=moments[0],
        channel_deviations=moments[1],
        skipped_images=len(data.skipped),
        skipped=data.skipped[:LISTED],
    )


def _spread(lengths: NDArray[np.int32]) -> SizeSpread:
    return SizeSpread(minimum=int(lengths.min()), median=float(np.median(lengths)), maximum=int(lengths.max()))
