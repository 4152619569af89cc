"""A folder of images, one sub-folder a class, as every image-folder loader reads it."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.manifest import Preprocessing
from training.data.classes import Classes, check_names
from training.data.images import DataSet
from training.data.listing import Listing, Sample
from training.data.reading import Advance, read
from training.data.splits import HELD_OUT, TRAINING, hold_out

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SOURCE = "image folder"


def list_images(folder: Path, share: float | None = None, classes: Classes | None = None) -> Listing:
    """What `folder` holds: train/<class>/* and test/<class>/*, or either of train/<class>/* and <class>/* alone.

    Then `share` of every class is held out. With `classes`, sub-folders are named after them or their ids, and classes
    have that order. Raises `ValueError` naming the folder at fault when there is nothing to read, when the splits name
    different classes, and where images lie elsewhere than in the folder of a class.
    """
    _check_folder(folder)
    training, held_out = _splits(folder)
    if held_out is None:
        root = training or folder
        folders, class_names = _classes(root, classes)
        paths, labels = _listing(root, folders)
        mask = hold_out(labels, class_names, share, str(root))
    elif training is None:
        raise ValueError(f"{folder} has {held_out.name} but no train to learn from: add it, or give another folder")
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
    parts = " and ".join(part.name for part in (training, held_out) if part)
    return _listed(folder, paths, labels, mask, class_names, parts)


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
    parts = "" if held_out == folder else held_out.name
    return _listed(folder, paths, labels, np.ones(len(labels), np.bool_), classes.names, parts)


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
    parts: str,
) -> Listing:
    samples = [Sample(_shown(path.relative_to(folder)), path) for path in paths]
    source = f"{SOURCE}, {parts}" if parts else SOURCE
    return Listing(folder.name, source, folder, samples, labels, held_out, class_names, mirrored=True)


def _shown(path: Path) -> str:
    """As cards have it, whose JSON is UTF-8, whatever the bytes of the name."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise ValueError(f"data folder {folder} is a file: give a folder with one sub-folder of images for each class")
    if not folder.is_dir():
        raise ValueError(
            f"data folder {folder} does not exist: give a folder with one sub-folder of images for each class"
        )


def _splits(folder: Path) -> tuple[Path | None, Path | None]:
    """Folders of the splits; one alone that holds images is a class: trains are photographed too."""
    training, held_out = (_first_of(folder, names) for names in (TRAINING, HELD_OUT))
    alone = None if training and held_out else training or held_out
    if alone and not _folders(alone):
        return None, None
    return training, held_out


def _first_of(folder: Path, names: Sequence[str]) -> Path | None:
    found = {entry.name.lower(): entry for entry in sorted(folder.iterdir(), reverse=True) if entry.is_dir()}
    return next((found[name] for name in names if name in found), None)


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


def _folders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def _sub_folders(folder: Path) -> tuple[str, ...]:
    names = _folders(folder)
    if len(names) < 2:
        raise ValueError(
            f"{folder} has {len(names)} sub-folders: a classifier needs at least 2 classes, one sub-folder each"
        )
    check_names(names, str(folder))
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
    paths: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(sub_folders):
        found = _images(folder / name)
        paths += [folder / name / file for file in found]
        labels += [index] * len(found)
    return paths, np.array(labels, np.int64)


def _images(folder: Path) -> list[str]:
    """Names in an order that is the same everywhere; hidden files are notes of systems, not images."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if Path(entry.name).suffix.lower() in SUFFIXES:
                found.append(entry.name)
            elif entry.is_dir():
                raise ValueError(
                    f"{folder} has a folder of its own, {entry.name}, whose images nobody would see: put images "
                    "straight into the folder of their class, or name the folder one level down"
                )
    return sorted(found)
