"""Images in NumPy's archives: N×H×W or N×H×W×C of uint8, with labels, and names of classes if there are any."""

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from training.data.labels import class_indices
from training.data.listing import Listing, Sample
from training.data.reading import FULL, reserve
from training.data.splits import hold_out, split_files

CHANNELS = (1, 2, 3, 4)
"""Of colour images: grey, grey with alpha, colour, colour with alpha."""
NAMES = "class_names"


class Keys(NamedTuple):
    """What arrays are called."""

    images: str
    labels: str


# As MedMNIST calls them, and as Keras does: to train on, and held out.
SPLIT_KEYS = (
    (Keys("train_images", "train_labels"), Keys("test_images", "test_labels")),
    (Keys("train_images", "train_labels"), Keys("val_images", "val_labels")),
    (Keys("x_train", "y_train"), Keys("x_test", "y_test")),
)
SINGLE_KEYS = (Keys("images", "labels"), Keys("x", "y"))


class _Part(NamedTuple):
    where: str
    images: NDArray[np.uint8]
    labels: NDArray[Any]


def list_arrays(path: Path, share: float | None = None, class_names: tuple[str, ...] | None = None) -> Listing:
    """What the archive at `path` holds, or those of a folder: `train.npz` and `test.npz`.

    Raises `ValueError` for what is no such archive, for arrays of another type or shape, and where the splits have
    images of different shapes. Nothing in an archive is executed; images are read from a temporary file.
    """
    training_files, held_out_files = split_files(path, ".npz")
    archives = [_Archive(file) for file in training_files]
    training = [_single(archive) for archive in archives] if held_out_files else []
    held_out = [_single(_Archive(file)) for file in held_out_files]
    if not held_out_files:
        if len(archives) > 1:
            names = ", ".join(file.name for file in training_files)
            raise ValueError(f"{path} has several archives ({names}): name one, or call them train.npz and test.npz")
        training, held_out = _of_one(archives[0])
    parts = training + held_out
    _check_shapes(parts)
    given = class_names or archives[0].class_names()
    labels, classes = class_indices(np.concatenate([_flat(part) for part in parts]), given, str(path))
    if held_out:
        if share is not None:
            raise ValueError(f"--held-out-share {share} has no meaning: {path} has its own split")
        mask = np.arange(len(labels)) >= sum(len(part.labels) for part in training)
    else:
        mask = hold_out(labels, classes, share, str(path))
    shape = parts[0].images.shape
    return Listing(
        name=path.stem,
        source=f"NumPy, {', '.join(file.name for file in training_files + held_out_files)}",
        root=path,
        samples=_samples(parts),
        labels=labels,
        held_out=mask,
        class_names=classes,
        mirrored=True,
        channels=1 if len(shape) == 3 or shape[3] == 1 else 3,
        side=min(shape[1:3]),
    )


class _Archive:
    """A zip of .npy files, each of which is mapped from a temporary file: none has to fit into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.names = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is no whole NumPy archive ({error}): save it again with numpy.savez") from error

    def __contains__(self, keys: Keys) -> bool:
        return keys.images in self.names and keys.labels in self.names

    def read(self, name: str) -> NDArray[Any]:
        """The array called `name`; raises `ValueError` for one of Python objects."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "array.npy"
            try:
                with zipfile.ZipFile(self.path) as archive, copy.open("w+b") as file:
                    member = archive.getinfo(f"{name}.npy")
                    reserve(file.fileno(), member.file_size)
                    with archive.open(member) as content:
                        shutil.copyfileobj(content, file)
            except (OSError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
                full = isinstance(error, OSError) and error.errno in FULL
                advice = (
                    f": it needs {member.file_size:,} bytes in {tempfile.gettempdir()}; set TMPDIR to a larger disk"
                )
                raise ValueError(
                    f"array {name} of {self.path} cannot be read ({error}){advice if full else ''}"
                ) from error
            try:
                # A file that is mapped stays there until nothing maps it, whatever becomes of its name.
                return open_memmap(copy, mode="r")
            except (ValueError, EOFError) as error:
                raise ValueError(
                    f"array {name} of {self.path} cannot be read ({error}): give arrays of numbers or strings; images "
                    "of different sizes belong into a folder or a Parquet file"
                ) from error

    def part(self, keys: Keys) -> _Part:
        """Images and labels; raises `ValueError` for those that do not fit."""
        where = f"{self.path} ({keys.images})"
        images, labels = self.read(keys.images), self.read(keys.labels)
        if images.dtype != np.uint8:
            raise ValueError(f"{where} has images of type {images.dtype}: give uint8, values 0 to 255")
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in CHANNELS):
            raise ValueError(f"{where} has images of shape {images.shape}: give N×H×W, or N×H×W×C with C of 1 to 4")
        if not all(images.shape):
            raise ValueError(f"{where} has no image: its shape is {images.shape}")
        if labels.shape[:1] != images.shape[:1]:
            count = f"{labels.shape[0]} labels" if labels.ndim else "a single label"
            raise ValueError(f"{where} has {len(images)} images and {count}: give one label an image")
        return _Part(where, images, labels)

    def class_names(self) -> tuple[str, ...] | None:
        """The names that lie beside the arrays, if there are any."""
        if NAMES not in self.names:
            return None
        found = self.read(NAMES)
        if found.ndim != 1 or found.dtype.kind != "U":
            raise ValueError(
                f"{NAMES} of {self.path} is {found.dtype} of shape {found.shape}: give strings, one a class"
            )
        return tuple(found.tolist())


def _of_one(archive: _Archive) -> tuple[list[_Part], list[_Part]]:
    for training, held_out in SPLIT_KEYS:
        if training in archive and held_out in archive:
            return [archive.part(training)], [archive.part(held_out)]
    return [_single(archive)], []


def _single(archive: _Archive) -> _Part:
    for keys in SINGLE_KEYS:
        if keys in archive:
            return archive.part(keys)
    found = ", ".join(sorted(archive.names)) or "nothing"
    raise ValueError(
        f"{archive.path} has {found}: give images and labels, or train_images, train_labels, test_images and "
        "test_labels, or x_train, y_train, x_test and y_test"
    )


def _check_shapes(parts: Sequence[_Part]) -> None:
    for part in parts[1:]:
        if part.images.shape[1:] != parts[0].images.shape[1:]:
            raise ValueError(
                f"{parts[0].where} and {part.where} have images of different shapes, {parts[0].images.shape[1:]} and "
                f"{part.images.shape[1:]}: resize them alike, or save them as files in a folder"
            )
        if _flat(part).dtype.kind != _flat(parts[0]).dtype.kind:
            raise ValueError(f"{parts[0].where} and {part.where} have labels of different types")


def _flat(part: _Part) -> NDArray[Any]:
    """Labels that can be put together, of shape N where they are N×1."""
    labels = part.labels
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    fitting = labels.dtype.kind in "iu" and labels.max(initial=0) <= np.iinfo(np.int64).max
    return labels.astype(np.int64) if fitting else np.array(labels)


def _samples(parts: Sequence[_Part]) -> Iterator[Sample]:
    for part in parts:
        for index, image in enumerate(part.images):
            pixels = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
            yield Sample(f"image {index}", np.asarray(pixels))
