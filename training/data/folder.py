"""A folder of images, one sub-folder a class, as every image-folder loader reads it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.manifest import Preprocessing
from training.data.classes import Classes
from training.data.images import DataSet
from training.data.listing import Listing, Sample
from training.data.reading import Advance, read
from training.data.splits import HELD_OUT, TRAINING, hold_out

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SOURCE = "image folder"


def list_images(folder: Path, share: float | None = None, classes: Classes | None = None) -> Listing:
    """What `folder` holds: train/<class>/* and test/<class>/*, or <class>/* of which `share` is held out.

    With `classes`, sub-folders are named after them or their ids, and classes have that order. Raises `ValueError`
    naming the folder at fault when there is nothing to read, or when the splits name different classes.
    """
    _check_folder(folder)
    training, held_out = (_first_of(folder, names) for names in (TRAINING, HELD_OUT))
    if training is None or held_out is None:
        folders, class_names = _classes(folder, classes)
        paths, labels = _listing(folder, folders)
        mask = hold_out(labels, class_names, share, str(folder))
    else:
        if share is not None:
            raise ValueError(f"--held-out-share {share} has no meaning: {folder} has its own split, {held_out.name}")
        folders, class_names = _classes(training, classes)
        others, _ = _classes(held_out, classes)
        if others != folders:
            raise ValueError(f"{training} and {held_out} name different classes: {folders} and {others}")
        (first, first_labels), (second, second_labels) = (_listing(part, folders) for part in (training, held_out))
        paths, labels = first + second, np.concatenate([first_labels, second_labels])
        mask = np.arange(len(labels)) >= len(first)
    return _listed(folder, paths, labels, mask, class_names)


def list_held_out(folder: Path, classes: Classes) -> Listing:
    """Images that others' weights are measured on: test/<class>/* below `folder`, or <class>/* alone.

    There are none to train on, and not every class needs images. Raises `ValueError` naming the folder at fault when
    it is not named after one class.
    """
    _check_folder(folder)
    held_out = _first_of(folder, HELD_OUT) or folder
    indices = _indices(held_out, classes)
    paths, labels = _listing(held_out, tuple(indices))
    if not paths:
        raise ValueError(f"{held_out} holds no image: expected {', '.join(sorted(SUFFIXES))} in its sub-folders")
    labels = np.array([*indices.values()], np.int64)[labels]
    return _listed(folder, paths, labels, np.ones(len(labels), np.bool_), classes.names)


def load(
    folder: Path, preprocessing: Preprocessing, skip_corrupt: int = 0, advance: Advance = lambda _done, _total: None
) -> DataSet:
    """Read what `list_images` finds; raises `ValueError` as it and `read` do."""
    return read(list_images(folder), preprocessing, skip_corrupt, advance)


def load_held_out(
    folder: Path,
    preprocessing: Preprocessing,
    classes: Classes,
    name: str | None = None,
    advance: Advance = lambda _done, _total: None,
) -> DataSet:
    """Read what `list_held_out` finds; raises `ValueError` as it does, and when a file is not an image."""
    listing = list_held_out(folder, classes)
    return read(listing.called(name), preprocessing, advance=advance, every_class=False)


def _listed(
    folder: Path,
    paths: Sequence[Path],
    labels: NDArray[np.int64],
    held_out: NDArray[np.bool_],
    class_names: tuple[str, ...],
) -> Listing:
    samples = [Sample(path.relative_to(folder).as_posix(), path) for path in paths]
    return Listing(folder.name, SOURCE, folder, samples, labels, held_out, class_names, mirrored=True)


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise ValueError(f"data folder {folder} is a file: give a folder with one sub-folder of images for each class")
    if not folder.is_dir():
        raise ValueError(
            f"data folder {folder} does not exist: give a folder with one sub-folder of images for each class"
        )


def _first_of(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _classes(folder: Path, classes: Classes | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sub-folders in the order of the classes, and the names of these."""
    if classes is None:
        found = _sub_folders(folder)
        return found, found
    indices = _indices(folder, classes)
    if len(indices) < len(classes.names):
        missing = next(name for index, name in enumerate(classes.names) if index not in indices.values())
        raise ValueError(f"{folder} has no folder of class {missing}: give every class at least one image")
    return tuple(sorted(indices, key=indices.__getitem__)), classes.names


def _sub_folders(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if len(names) < 2:
        raise ValueError(
            f"{folder} has {len(names)} sub-folders: a classifier needs at least 2 classes, one sub-folder each"
        )
    return names


def _indices(folder: Path, classes: Classes) -> dict[str, int]:
    """The class of each sub-folder."""
    found = {name: classes.index(name) for name in _sub_folders(folder)}
    if unknown := [name for name, index in found.items() if index is None]:
        raise ValueError(
            f"{folder} has folders that are not named after one of the {len(classes.names)} classes: "
            f"{', '.join(unknown[:5])}; the classes are {', '.join((classes.ids or classes.names)[:5])}, …"
        )
    return {name: index for name, index in found.items() if index is not None}


def _listing(folder: Path, sub_folders: tuple[str, ...]) -> tuple[list[Path], NDArray[np.int64]]:
    paths, labels = [], []
    for index, name in enumerate(sub_folders):
        found = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES)
        paths += found
        labels += [index] * len(found)
    return paths, np.array(labels, np.int64)
