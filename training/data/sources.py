"""The catalogue of data sources, and the configuration that names one."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Literal, Self

from models.manifest import Preprocessing
from training.data import digits
from training.data.arrays import list_arrays
from training.data.classes import Classes, find_classes
from training.data.folder import list_images
from training.data.images import DataSet
from training.data.labels import class_weights
from training.data.listing import Listing
from training.data.parquet import list_parquet
from training.data.published import PUBLISHED, list_published
from training.data.reading import read
from training.progress import Bar, progress_bar

DEFAULT_IMAGE_SIZE = 32
SMALLEST, LARGEST = 8, 1024


@dataclass(frozen=True)
class DataConfig:
    """What to learn from."""

    data: Literal[
        "digits",
        "folder",
        "npz",
        "parquet",
        "cifar10",
        "cifar100",
        "mnist",
        "fashion_mnist",
        "kmnist",
        "svhn",
    ] = "digits"
    """`digits` ships with scikit-learn; `folder`, `npz` and `parquet` read --data-dir; the others are downloaded once,
    and checked, or read from --data-dir."""
    data_dir: str | None = None
    """Folder of train/<class>/* and test/<class>/*, or of <class>/* alone; a file or a folder of `npz` or `parquet`;
    a folder with the files of a published data set."""
    data_name: str | None = None
    """What the manifest calls the data; the folder's name if not given."""
    image_size: int | None = None
    """Images are resized to this shorter side and cropped to a square of it; if not given, 32 for files of images, and
    their own size for arrays."""
    classes: str | None = None
    """File of class names (one a line, a JSON list, or the JSON index of ids and names) in the order of the labels;
    of a folder, the names or ids of its sub-folders."""
    held_out_share: float | None = None
    """Share of every class that is held out where the data has no split of its own; 0.1 if not given, of digits 0.2."""
    mirrored: bool | None = None
    """Whether a mirrored image keeps its class, as in photographs but not in writing; what the source says if not
    given."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """What each class counts in the loss: `balanced` is the inverse of its share, or by name (`cat 2 dog 0.5`, 1 for
    those not named), scaled to a mean of 1 over the training images."""
    skip_corrupt: int = 0
    """How many images that cannot be read may be left out; they are listed."""

    def __post_init__(self) -> None:
        if self.data in NEEDS and not self.data_dir:
            raise ValueError(f"data {self.data!r} needs --data-dir: {NEEDS[self.data]}")
        for field in fields(self):
            given = getattr(self, field.name)
            if given != field.default and field.name not in (*ALWAYS, *TAKES.get(self.data, OWN)):
                option = field.name.replace("_", "-")
                taking = [key for key, options in TAKES.items() if field.name in options]
                raise ValueError(f"--{option} {given} needs --data {' or '.join(taking)}, not {self.data}")
        if self.image_size is not None and not SMALLEST <= self.image_size <= LARGEST:
            raise ValueError(f"--image-size {self.image_size} is not allowed: use {SMALLEST} to {LARGEST}")
        if self.held_out_share is not None and not 0 < self.held_out_share < 1:
            raise ValueError(f"--held-out-share {self.held_out_share} is not allowed: use more than 0 and less than 1")
        if self.skip_corrupt < 0:
            raise ValueError(f"--skip-corrupt {self.skip_corrupt} is not allowed: use 0 or more")

    def resolved(self) -> Self:
        """The same with absolute paths, so that a run can be published from anywhere."""
        folder = str(Path(self.data_dir).resolve()) if self.data_dir else None
        names = self.classes
        if names and Path(names).is_file():
            names = str(Path(names).resolve())
        return replace(self, data_dir=folder, classes=names)


def load_data(config: DataConfig, preprocessing: Preprocessing | None = None) -> DataSet:
    """Load what `config` names, pre-processed as it says, or as `preprocessing` does where the source leaves a choice.

    Raises `ValueError` for an unknown source or images that cannot be read.
    """
    if config.data not in SOURCES:
        raise ValueError(f"unknown data source {config.data!r}; choose from {', '.join(SOURCES)}")
    data = SOURCES[config.data](config, preprocessing)
    if config.mirrored is not None:
        data = replace(data, mirrored=config.mirrored)
    if config.class_weights is None:
        return data
    return replace(data, class_weights=class_weights(config.class_weights, data.training.labels, data.class_names))


def _load_digits(config: DataConfig, _: Preprocessing | None) -> DataSet:
    return digits.load(config.held_out_share)


def _load_listed(
    config: DataConfig, preprocessing: Preprocessing | None, find: Callable[[DataConfig, Bar], Listing]
) -> DataSet:
    with progress_bar("reading images") as bar:
        listing = find(config, bar).called(config.data_name)
        size = config.image_size or listing.side or DEFAULT_IMAGE_SIZE
        if preprocessing is None and size > LARGEST:
            raise ValueError(f"{listing.root} has images of {size} pixels a side: give --image-size, at most {LARGEST}")
        usual = Preprocessing(channels=listing.channels, height=size, width=size, resize=size, interpolation="bilinear")
        return read(listing, preprocessing or usual, config.skip_corrupt, bar.advance)


def _folder(config: DataConfig, _: Bar) -> Listing:
    return list_images(_path(config), config.held_out_share, _classes(config))


def _npz(config: DataConfig, _: Bar) -> Listing:
    classes = _classes(config)
    return list_arrays(_path(config), config.held_out_share, classes.names if classes else None)


def _parquet(config: DataConfig, _: Bar) -> Listing:
    classes = _classes(config)
    return list_parquet(_path(config), config.held_out_share, classes.names if classes else None)


def _published(config: DataConfig, bar: Bar) -> Listing:
    return list_published(PUBLISHED[config.data], Path(config.data_dir) if config.data_dir else None, bar.advance)


def _path(config: DataConfig) -> Path:
    assert config.data_dir is not None
    return Path(config.data_dir)


def _classes(config: DataConfig) -> Classes | None:
    return find_classes(config.classes) if config.classes else None


ALWAYS = ("data", "mirrored", "class_weights")
SPLIT = frozenset({"held_out_share"})
PLACED = frozenset({"data_dir", "data_name", "image_size"})
OWN = SPLIT | PLACED | {"classes", "skip_corrupt"}

SOURCES: dict[str, Callable[[DataConfig, Preprocessing | None], DataSet]] = {
    "digits": _load_digits,
    "folder": partial(_load_listed, find=_folder),
    "npz": partial(_load_listed, find=_npz),
    "parquet": partial(_load_listed, find=_parquet),
    **{key: partial(_load_listed, find=_published) for key in PUBLISHED},
}
# What --data-dir has to name, where it must name something.
NEEDS: dict[str, str] = {
    "folder": "the folder of images",
    "npz": "the .npz file, or a folder with train.npz and test.npz",
    "parquet": "the .parquet file, or a folder of them",
}
# Options that have a meaning for a source, beside those that always have.
TAKES: dict[str, frozenset[str]] = {
    key: SPLIT if key == "digits" else OWN if key in NEEDS else PLACED for key in SOURCES
}
