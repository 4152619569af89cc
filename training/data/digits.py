"""The handwritten digits that ship with scikit-learn: 1,797 grey images of 8×8, the offline default."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from models.manifest import Preprocessing
from training.data.images import DataSet, LabelledImages

HELD_OUT_SHARE = 0.2


def load(share: float | None = None) -> DataSet:
    """All digits, one in five held out, the same ones whatever the training seed; values 0…16 scaled to 0…255."""
    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    held_out = HELD_OUT_SHARE if share is None else share
    count, classes = round(held_out * len(labels)), len(bunch.target_names)
    if not classes <= count <= len(labels) - classes:
        raise ValueError(
            f"--held-out-share {held_out} of {len(labels):,} digits leaves {count:,} held out: "
            f"leave at least one of each of the {classes} classes on both sides"
        )
    train, test = train_test_split(np.arange(len(labels)), test_size=held_out, stratify=labels, random_state=0)
    return DataSet(
        name="digits (scikit-learn, UCI optical recognition of handwritten digits)",
        training=LabelledImages(pixels[train], labels[train]),
        held_out=LabelledImages(pixels[test], labels[test]),
        class_names=tuple(str(digit) for digit in bunch.target_names),
        preprocessing=Preprocessing(channels=1, height=8, width=8, resize=8, interpolation="box"),
        mirrored=False,
        source="scikit-learn",
        sizes=np.full((len(labels), 2), 8, np.int32),
    )
