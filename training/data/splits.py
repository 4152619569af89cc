"""Which images are held out: what the source says by the names of its parts, or a share of every class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.images import check_classes

TRAINING = ("train", "training")
HELD_OUT = ("test", "testing", "val", "valid", "validation", "eval")
"""The first that is there counts; capital letters do not."""
HELD_OUT_SHARE = 0.1


def hold_out(
    labels: NDArray[np.int64], class_names: tuple[str, ...], share: float | None, where: str
) -> NDArray[np.bool_]:
    """Hold out `share` of every class (0.1 if None), at least one image and not all, the same ones every time.

    Raises `ValueError` where a class has fewer than two images.
    """
    check_classes(class_names, labels, where)
    counts = np.bincount(labels)
    if counts.min() < 2:
        name = class_names[int(counts.argmin())]
        raise ValueError(
            f"{where} has a class with 1 image ({name}): give every class at least 2, so that one can be held out"
        )
    random = np.random.default_rng(0)
    held_out = np.zeros(len(labels), np.bool_)
    for index in range(len(class_names)):
        members = random.permutation(np.flatnonzero(labels == index))
        count = round((HELD_OUT_SHARE if share is None else share) * len(members))
        held_out[members[: min(max(1, count), len(members) - 1)]] = True
    return held_out


def split_files(path: Path, suffix: str) -> tuple[list[Path], list[Path]]:
    """Files to train on and files held out, of a folder with train* and test* (or val*); the latter are none else.

    `path` may be a file too. Raises `ValueError` where there is nothing to read.
    """
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise ValueError(f"{path} does not exist: give a {suffix} file, or a folder of them")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == suffix and _is_shown(file))
    if not files:
        raise ValueError(f"{path} has no {suffix} file: give one, or a folder with train*{suffix} and test*{suffix}")
    training = _of_kind(files, TRAINING)
    held_out = next((found for kind in HELD_OUT if (found := _of_kind(files, (kind,)))), [])
    if held_out and not training:
        raise ValueError(f"{path} has {held_out[0].name} but no train*{suffix} to train on: add it, or name one file")
    return (training, held_out) if held_out else (training or files, [])


def _is_shown(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".")


def _of_kind(files: Sequence[Path], kinds: Sequence[str]) -> list[Path]:
    """Those whose name starts with the word: `train.npz`, `train-00000-of-00002.parquet`, not `trained.npz`."""
    return [file for file in files if file.name.lower().replace("_", "-").replace(".", "-").split("-")[0] in kinds]
