"""The formats in which published data sets come: bytes → arrays, every length checked, nothing executed."""

import gzip
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from training.data.download import RemoteFile, cache, fetch
from training.data.reading import Advance

MAX_BYTES = 1 << 30
"""Of one file inside an archive."""


class Part(NamedTuple):
    """Images N×H×W or N×H×W×3, and what they show."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Parts(NamedTuple):
    training: Part
    held_out: Part
    class_names: tuple[str, ...] | None
    """None where the files do not say them."""


@dataclass(frozen=True)
class Cifar:
    """The binary version of CIFAR: a tar of records, each its labels of one byte and 3 planes of 32×32.

    The Python version is a pickle, which could execute anything: it is refused.
    """

    archive: RemoteFile
    folder: str
    training: tuple[str, ...]
    held_out: str
    names: str
    labels: int = 1
    """Of each record; the last one counts."""
    pickled: tuple[str, ...] = ()
    """What the Python version is called."""

    def read(self, folder: Path | None, advance: Advance) -> Parts:
        """From `folder`, which has the archive or what was in it, or is it; from the cache if None."""
        names = (*self.training, self.held_out, self.names)
        contents = _extracted(folder, self.folder, names) or self._packed(folder, names, advance)
        training = [self._records(contents[name], name) for name in self.training]
        whole = Part(*(np.concatenate(arrays) for arrays in zip(*training, strict=True)))
        class_names = tuple(contents[self.names].decode(errors="replace").split())
        return Parts(whole, self._records(contents[self.held_out], self.held_out), class_names)

    def _packed(self, folder: Path | None, names: Sequence[str], advance: Advance) -> dict[str, bytes]:
        present = {name for name in (self.archive.name, *self.pickled) if folder and (folder / name).exists()}
        if present and self.archive.name not in present:
            raise ValueError(
                f"{folder} has the Python version, which is pickled and could execute code: give the binary version, "
                f"{self.archive.name} (SHA-256 {self.archive.sha256}) from {self.archive.url}"
            )
        path = fetch(self.archive, folder or cache(), advance)
        wanted = {f"{self.folder}/{name}": name for name in names}
        contents: dict[str, bytes] = {}
        try:
            # Read, not extracted: no member becomes a file, whatever it is called.
            with tarfile.open(path, "r:gz") as archive:
                for member in archive:
                    name = wanted.get(member.name)
                    file = archive.extractfile(member) if name and member.isreg() else None
                    if name is None or file is None:
                        continue
                    if name in contents or member.size > MAX_BYTES:
                        raise ValueError(f"{path} has {member.name} twice, or with too many bytes: download it again")
                    contents[name] = file.read()
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is no whole archive ({error}): remove it and download it again") from error
        if missing := [name for name in names if name not in contents]:
            raise ValueError(f"{path} has no {', '.join(missing)} in {self.folder}: download it again")
        return contents

    def _records(self, content: bytes, name: str) -> Part:
        length = self.labels + 3 * 32 * 32
        if not content or len(content) % length:
            raise ValueError(f"{name} has {len(content):,} bytes, no whole records of {length}: extract it again")
        records = np.frombuffer(content, np.uint8).reshape(-1, length)
        images_NCHW = records[:, self.labels :].reshape(-1, 3, 32, 32)
        return Part(images_NCHW.transpose(0, 2, 3, 1), records[:, self.labels - 1].astype(np.int64))


@dataclass(frozen=True)
class Idx:
    """The format of MNIST: a magic number and sizes as big-endian integers, then bytes; each file gzipped."""

    training_images: RemoteFile
    training_labels: RemoteFile
    held_out_images: RemoteFile
    held_out_labels: RemoteFile

    def read(self, folder: Path | None, advance: Advance) -> Parts:
        """From `folder`, which has the files as they come or without their `.gz`; from the cache if None."""
        training = Part(
            self._values(self.training_images, 3, folder, advance),
            self._values(self.training_labels, 1, folder, advance).astype(np.int64),
        )
        held_out = Part(
            self._values(self.held_out_images, 3, folder, advance),
            self._values(self.held_out_labels, 1, folder, advance).astype(np.int64),
        )
        return Parts(training, held_out, None)

    def _values(self, file: RemoteFile, dimensions: int, folder: Path | None, advance: Advance) -> NDArray[np.uint8]:
        plain = (folder or cache()) / file.name.removesuffix(".gz")
        path = plain if folder and plain.is_file() else fetch(file, folder or cache(), advance)
        try:
            with path.open("rb") if path == plain else gzip.open(path) as content:
                head = content.read(4 * (1 + dimensions))
                # The magic number: 0, 0, 8 for bytes, and how many sizes follow.
                if len(head) != 4 * (1 + dimensions) or head[:4] != bytes([0, 0, 8, dimensions]):
                    raise ValueError(f"{path} is no IDX file of bytes in {dimensions} dimensions: download it again")
                shape = tuple(np.frombuffer(head[4:], ">u4").tolist())
                size = int(np.prod(shape, dtype=object))
                values = content.read(min(size, MAX_BYTES) + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be read to its end ({error}): download it again") from error
        if len(values) != size:
            raise ValueError(f"{path} should have {size:,} bytes behind its head and has others: download it again")
        return np.frombuffer(values, np.uint8).reshape(shape)


@dataclass(frozen=True)
class Svhn:
    """The cropped digits of SVHN: MATLAB files with X, H×W×3×N, and y, 1…9 and 10 for the digit 0."""

    training: RemoteFile
    held_out: RemoteFile

    def read(self, folder: Path | None, advance: Advance) -> Parts:
        """From `folder`, which has both files; from the cache if None."""
        training, held_out = (self._values(file, folder, advance) for file in (self.training, self.held_out))
        return Parts(training, held_out, None)

    def _values(self, file: RemoteFile, folder: Path | None, advance: Advance) -> Part:
        path = fetch(file, folder or cache(), advance)
        try:
            found = loadmat(path, variable_names=("X", "y"))
            images_HWCN, labels = found["X"], found["y"].ravel()
        # What it raises depends on where the file stops to make sense.
        except Exception as error:
            raise ValueError(f"{path} is no MATLAB file with X and y ({error}): download it again") from error
        if images_HWCN.dtype != np.uint8 or images_HWCN.ndim != 4 or images_HWCN.shape[2:] != (3, len(labels)):
            raise ValueError(f"{path} has X of {images_HWCN.dtype}, {images_HWCN.shape}: expected uint8, H×W×3×N")
        return Part(images_HWCN.transpose(3, 0, 1, 2), labels.astype(np.int64) % 10)


def _extracted(folder: Path | None, inner: str, names: Sequence[str]) -> dict[str, bytes] | None:
    """The files as they lie in `folder` or in `inner` below it; None where one is missing in both."""
    for place in (folder, folder / inner) if folder else ():
        if all((place / name).is_file() for name in names):
            if large := [name for name in names if (place / name).stat().st_size > MAX_BYTES]:
                raise ValueError(f"{place / large[0]} has more than {MAX_BYTES:,} bytes: extract it again")
            return {name: (place / name).read_bytes() for name in names}
    return None
