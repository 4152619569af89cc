"""Labels as files have them → class indices, and what each class weighs in the loss."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.classes import MAX_CLASSES, check_names

SHOWN = 5


def class_indices(
    labels: NDArray[Any], class_names: tuple[str, ...] | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Index of each label N or N×1, and the names: of integers those given or the integers, of strings in their order.

    Raises `ValueError` for labels that are neither, or that the names given do not have, and for unprintable names.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"{where} has labels of shape {labels.shape}: give one label an image, of shape N or N×1")
    if labels.dtype.kind in "iu":
        indices, names = _from_integers(labels, class_names, where)
    elif labels.dtype.kind == "U":
        indices, names = _from_strings(labels, class_names, where)
    else:
        raise ValueError(f"{where} has labels of type {labels.dtype}: give integers from 0, or strings")
    check_names(names, where)
    return indices, names


def class_weights(
    asked: str | Mapping[str, float], labels: NDArray[np.int64], class_names: tuple[str, ...]
) -> tuple[float, ...]:
    """Factors of the loss by class, scaled so that their mean over the training images with `labels` is 1.

    `balanced` is n / (K·nₖ): all classes weigh alike, however many images each has. By name: those not named weigh 1
    before the scaling. Raises `ValueError` for an unknown name, or a weight that is not positive.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if isinstance(asked, str):
        assert asked == "balanced"
        weights = 1 / counts
    else:
        for name, weight in asked.items():
            if class_names.count(name) != 1:
                raise ValueError(
                    f"--class-weights names class {name!r}, which is not one class of this data: "
                    f"the classes are {_shown(class_names)}"
                )
            if not 0 < weight < math.inf:
                raise ValueError(f"--class-weights {name} {weight} is not allowed: use a number above 0")
        weights = np.array([asked.get(name, 1.0) for name in class_names])
    weights = weights * counts.sum() / (weights @ counts)
    return tuple(weights.tolist())


def _from_integers(
    labels: NDArray[Any], class_names: tuple[str, ...] | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    lowest, highest = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
    classes = highest + 1 if class_names is None else len(class_names)
    if lowest < 0 or highest >= classes:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"{where} has the label {wrong}: use 0 to {max(classes, 1) - 1}, as many as there are classes")
    if classes > MAX_CLASSES:
        raise ValueError(f"{where} has the label {highest}: number the classes from 0, at most {MAX_CLASSES:,} of them")
    return labels.astype(np.int64), class_names or tuple(str(index) for index in range(classes))


def _from_strings(
    labels: NDArray[Any], class_names: tuple[str, ...] | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    found, indices = np.unique(labels, return_inverse=True)
    names = tuple(found.tolist())
    if class_names is None:
        return indices.astype(np.int64), names
    order = {name: index for index, name in enumerate(class_names)}
    if unknown := [name for name in names if name not in order]:
        raise ValueError(
            f"{where} has the label {unknown[0]!r}, which is no class: the classes are {_shown(class_names)}"
        )
    return np.array([order[name] for name in names], np.int64)[indices], class_names


def _shown(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
