"""The catalogue of data sources, and the configuration that names one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.manifest import Preprocessing
from training.data import digits, folder
from training.data.images import DataSet
from training.progress import progress_bar

DEFAULT_IMAGE_SIZE = 32


@dataclass(frozen=True)
class DataConfig:
    """What to learn from."""

    data: Literal["digits", "folder"] = "digits"
    """`digits` ships with scikit-learn; `folder` reads images of --data-dir."""
    data_dir: str | None = None
    """Folder with train/<class>/* and test/<class>/*, or <class>/* alone."""
    data_name: str | None = None
    """What the manifest calls the data; the folder's name if not given."""
    image_size: int | None = None
    """Images of a folder are resized to this shorter side and cropped to a square of it; 32 if not given."""

    def __post_init__(self) -> None:
        if self.data == "folder" and not self.data_dir:
            raise ValueError("data 'folder' needs --data-dir: the folder of images")
        if self.data == "digits" and self.data_dir:
            raise ValueError(f"--data-dir {self.data_dir} needs --data folder: digits come from scikit-learn")
        if self.data == "digits" and self.image_size is not None:
            raise ValueError(f"--image-size {self.image_size} needs --data folder: digits are 8×8")
        if self.image_size is not None and not 8 <= self.image_size <= 1024:
            raise ValueError(f"--image-size {self.image_size} is not allowed: use 8 to 1024")


def _load_digits(_: DataConfig) -> DataSet:
    return digits.load()


def _load_folder(config: DataConfig) -> DataSet:
    size = config.image_size or DEFAULT_IMAGE_SIZE
    preprocessing = Preprocessing(channels=3, height=size, width=size, resize=size, interpolation="bilinear")
    assert config.data_dir is not None
    with progress_bar("reading images") as bar:
        return folder.load(Path(config.data_dir), preprocessing, config.data_name, bar.advance)


SOURCES: dict[str, Callable[[DataConfig], DataSet]] = {"digits": _load_digits, "folder": _load_folder}


def load_data(config: DataConfig) -> DataSet:
    """Load what `config` names; raises `ValueError` for an unknown source or images that cannot be read."""
    if config.data not in SOURCES:
        raise ValueError(f"unknown data source {config.data!r}; choose from {', '.join(SOURCES)}")
    return SOURCES[config.data](config)
