"""A folder of images, one sub-folder a class, as every image-folder loader reads it."""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.manifest import Preprocessing
from models.preprocessing import image_to_pixels
from training.data.classes import Classes
from training.data.images import DataSet, LabelledImages, check_classes

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
TRAINING_FOLDERS = ("train", "training")
HELD_OUT_FOLDERS = ("test", "val", "valid", "validation")
HELD_OUT_SHARE = 0.1
IN_MEMORY_BYTES = 2 << 30

Advance = Callable[[int, int], None]
"""Told (images read, images in all) as reading goes on."""


def load(
    folder: Path, preprocessing: Preprocessing, name: str | None = None, advance: Advance = lambda _done, _total: None
) -> DataSet:
    """Read `folder`, either train/<class>/* and test/<class>/*, or <class>/* of which one in ten is held out.

    Raises `ValueError` naming the folder or file at fault when there is nothing to read, when the splits name
    different classes, or when a file is not an image.
    """
    if not folder.is_dir():
        raise ValueError(
            f"data folder {folder} does not exist: give a folder with one sub-folder of images for each class"
        )
    training, held_out = (_first_of(folder, names) for names in (TRAINING_FOLDERS, HELD_OUT_FOLDERS))
    if training and held_out:
        class_names = _classes(training)
        if _classes(held_out) != class_names:
            raise ValueError(
                f"{training} and {held_out} name different classes: {class_names} and {_classes(held_out)}"
            )
        splits = [_listing(training, class_names), _listing(held_out, class_names)]
    else:
        class_names = _classes(folder)
        splits = _split(folder, class_names)
    for (_, labels), where in zip(splits, ("the training split", "the held-out split"), strict=True):
        check_classes(class_names, labels, f"{where} of {folder}")
    (training_paths, training_labels), (held_out_paths, held_out_labels) = splits
    pixels = _decode(training_paths + held_out_paths, preprocessing, advance)
    count = len(training_paths)
    return DataSet(
        name=name or folder.name,
        training=LabelledImages(pixels[:count], training_labels),
        held_out=LabelledImages(pixels[count:], held_out_labels),
        class_names=class_names,
        preprocessing=preprocessing,
        mirrored=True,
    )


def load_held_out(
    folder: Path,
    preprocessing: Preprocessing,
    classes: Classes,
    name: str | None = None,
    advance: Advance = lambda _done, _total: None,
) -> DataSet:
    """Read images that others' weights are measured on: test/<class>/* below `folder`, or <class>/* alone.

    There are none to train on, and not every class needs images. Raises `ValueError` naming the folder or file at
    fault when a folder is not named after one class, or a file is not an image.
    """
    if not folder.is_dir():
        raise ValueError(f"data folder {folder} does not exist: give a folder with sub-folders named after the classes")
    held_out = _first_of(folder, HELD_OUT_FOLDERS) or folder
    indices = {found: classes.index(found) for found in _classes(held_out)}
    if unknown := [found for found, index in indices.items() if index is None]:
        raise ValueError(
            f"{held_out} has folders that are not named after one of the {len(classes.names)} classes: "
            f"{', '.join(unknown[:5])}; the classes are {', '.join((classes.ids or classes.names)[:5])}, …"
        )
    paths, labels = _listing(held_out, tuple(indices))
    if not paths:
        raise ValueError(f"{held_out} holds no image: expected {', '.join(sorted(SUFFIXES))} in its sub-folders")
    pixels = _decode(paths, preprocessing, advance)
    return DataSet(
        name=name or folder.name,
        training=LabelledImages(pixels[:0], labels[:0]),
        held_out=LabelledImages(pixels, np.array([*indices.values()], np.int64)[labels]),
        class_names=classes.names,
        preprocessing=preprocessing,
        mirrored=True,
    )


def _first_of(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if len(names) < 2:
        raise ValueError(
            f"{folder} has {len(names)} sub-folders: a classifier needs at least 2 classes, one sub-folder each"
        )
    return names


def _listing(folder: Path, class_names: tuple[str, ...]) -> tuple[list[Path], NDArray[np.int64]]:
    paths, labels = [], []
    for index, class_name in enumerate(class_names):
        found = sorted(path for path in (folder / class_name).iterdir() if path.suffix.lower() in SUFFIXES)
        paths += found
        labels += [index] * len(found)
    return paths, np.array(labels, np.int64)


def _split(folder: Path, class_names: tuple[str, ...]) -> list[tuple[list[Path], NDArray[np.int64]]]:
    """Hold out one in ten of every class, at least one image of each, the same ones every time."""
    paths, labels = _listing(folder, class_names)
    check_classes(class_names, labels, str(folder))
    smallest = int(np.bincount(labels).min())
    if smallest < 2:
        raise ValueError(f"{folder} has a class with 1 image: give every class at least 2, so that one can be held out")
    random = np.random.default_rng(0)
    chosen: list[int] = []
    for index in range(len(class_names)):
        members = random.permutation(np.flatnonzero(labels == index))
        chosen += members[: max(1, round(HELD_OUT_SHARE * len(members)))].tolist()
    held_out = np.sort(np.array(chosen))
    training = np.setdiff1d(np.arange(len(labels)), held_out)
    return [([paths[index] for index in part], labels[part]) for part in (training, held_out)]


def _decode(paths: Sequence[Path], preprocessing: Preprocessing, advance: Advance) -> NDArray[np.uint8]:
    pixels = _allocate((len(paths), preprocessing.channels, preprocessing.height, preprocessing.width))
    with ThreadPoolExecutor() as pool:
        for index, image in enumerate(pool.map(lambda path: _read(path, preprocessing), paths)):
            pixels[index] = image
            advance(index + 1, len(paths))
    return pixels


def _allocate(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory for small sets; an unnamed temporary file that the system pages in and out for large ones."""
    if np.prod(shape) <= IN_MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, mode="w+", shape=shape)


def _read(path: Path, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return image_to_pixels(image, preprocessing)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): mend or remove it") from error
