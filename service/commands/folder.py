"""A folder of images that a model was not trained on, flat or one sub-folder a class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.manifest import Preprocessing
from service.errors import ServiceError
from service.images import PixelBudget, decode

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 178_956_970
MOST_UNUSABLE = 0.1
"""Share of the files that may be damaged; with more of them something else is wrong."""


@dataclass(frozen=True)
class ImageFolder:
    """Files, and the class of each where the folder says it."""

    path: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...] | None

    @classmethod
    def find(cls, path: Path, class_names: Sequence[str]) -> "ImageFolder":
        """List `path`, either files or `<class>/` files; raises `ValueError` for no image or an unknown class."""
        if not path.is_dir():
            raise ValueError(
                f"folder of images {path} does not exist: give one with images, or with one sub-folder a class"
            )
        flat = _images(path)
        folders = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
        by_class = {folder: _images(folder) for folder in folders}
        if flat and any(by_class.values()):
            raise ValueError(
                f"{path} holds both images and folders of images: put all into folders named after the classes, or none"
            )
        if not flat and not any(by_class.values()):
            raise ValueError(f"{path} holds no image: expected {', '.join(sorted(SUFFIXES))}, or folders of them")
        if flat:
            return cls(path, tuple(flat), None)
        unknown = [folder.name for folder in folders if class_names.count(folder.name) != 1]
        if unknown:
            raise ValueError(
                f"{path} has folders that are not exactly one of the labels: {', '.join(unknown[:5])}; "
                f"name them after the {len(class_names)} labels ({', '.join(class_names[:5])}, …)"
            )
        files = [(file, class_names.index(folder.name)) for folder, found in by_class.items() for file in found]
        return cls(path, tuple(file for file, _ in files), tuple(label for _, label in files))


@dataclass
class ImageReader:
    """Decodes a folder batch by batch, and keeps what could not be used."""

    folder: ImageFolder
    preprocessing: Preprocessing
    unusable: dict[Path, str]
    used: list[int]
    """Positions in the folder of the images that were read."""

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Pixels N×C×H×W; raises `ValueError` when more than one file in ten is damaged."""
        batch: list[NDArray[np.uint8]] = []
        for index, file in enumerate(self.folder.files):
            try:
                batch.append(decode(file.read_bytes(), self.preprocessing, PixelBudget(MAX_PIXELS)))
            except (ServiceError, OSError) as error:
                self._skip(file, str(error))
                continue
            self.used.append(index)
            if len(batch) == size:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)

    def _skip(self, file: Path, reason: str) -> None:
        self.unusable[file] = reason
        if len(self.unusable) > max(1, MOST_UNUSABLE * len(self.folder.files)) or len(self.folder.files) == 1:
            listed = "; ".join(f"{path.name}: {why}" for path, why in list(self.unusable.items())[:5])
            raise ValueError(
                f"more than one in ten of the {len(self.folder.files)} images in {self.folder.path} cannot be used "
                f"({listed}): mend or remove them"
            )


def _images(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
