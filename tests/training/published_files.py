"""Small data sets in the exact formats of the published ones, with the digests of what was written here."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from training.data.download import RemoteFile
from training.data.published import PUBLISHED, PublishedSet
from training.data.raw import Cifar, Idx, Svhn

RANDOM = np.random.default_rng(0)
TRAINING, HELD_OUT = 20, 10


@dataclass(frozen=True)
class Made:
    """A data set, its files, and what must be read from them."""

    key: str
    published: PublishedSet
    files: dict[str, bytes]
    training: tuple[NDArray[np.uint8], list[int]]
    held_out: tuple[NDArray[np.uint8], list[int]]
    """Pixels N×C×H×W and labels."""

    def at(self, base: str) -> PublishedSet:
        """The same, with its files at another address."""
        files: Any = self.published.files
        moved = {
            name: replace(file, url=f"{base}/{file.name}")
            for name, file in vars(files).items()
            if isinstance(file, RemoteFile)
        }
        return replace(self.published, files=replace(files, **moved))

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder


def remote(name: str, content: bytes) -> RemoteFile:
    return RemoteFile(f"http://127.0.0.1:9/{name}", len(content), hashlib.sha256(content).hexdigest())


def tarred(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def cifar(key: str, others: Mapping[str, bytes] | None = None) -> Made:
    """https://www.cs.toronto.edu/~kriz/cifar.html: labels of a byte, then 1024 bytes of red, of green and of blue."""
    published = PUBLISHED[key]
    files = published.files
    assert isinstance(files, Cifar)
    classes = 10
    names = "".join(f"class{number}\n" for number in range(classes)) + "\n"
    members = {files.names: names.encode()}
    batches: dict[str, tuple[NDArray[np.uint8], list[int]]] = {}
    for name in (*files.training, files.held_out):
        count = HELD_OUT if name == files.held_out else TRAINING // len(files.training)
        pixels = RANDOM.integers(0, 256, (count, 3, 32, 32), np.uint8)
        # Over all batches every class comes up.
        labels = [(index + 4 * len(batches)) % classes for index in range(count)]
        records = [
            bytes([7] * (files.labels - 1) + [label]) + image.tobytes()
            for label, image in zip(labels, pixels, strict=True)
        ]
        batches[name] = pixels, labels
        members[name] = b"".join(records)
    packed = {f"{files.folder}/{name}": content for name, content in members.items()}
    archive = tarred(packed | dict(others or {}))
    made = replace(files, archive=remote(files.archive.name, archive))
    pixels = np.concatenate([batches[name][0] for name in files.training])
    labels = [label for name in files.training for label in batches[name][1]]
    return Made(
        key,
        replace(published, files=made, images=(TRAINING, HELD_OUT)),
        {files.archive.name: archive},
        (pixels, labels),
        batches[files.held_out],
    )


def idx(key: str) -> Made:
    """http://yann.lecun.com/exdb/mnist/: 0, 0, type 8 (unsigned byte), number of sizes; sizes of 4 bytes; values."""
    parts = []
    files = {}
    for kind, count in (("train", TRAINING), ("t10k", HELD_OUT)):
        pixels = RANDOM.integers(0, 256, (count, 28, 28), np.uint8)
        labels = [(3 * index) % 10 for index in range(count)]
        images = struct.pack(">BBBBIII", 0, 0, 8, 3, count, 28, 28) + pixels.tobytes()
        files[f"{kind}-images-idx3-ubyte.gz"] = gzip.compress(images)
        files[f"{kind}-labels-idx1-ubyte.gz"] = gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, count) + bytes(labels))
        parts.append((pixels[:, None], labels))
    published = replace(
        PUBLISHED[key], files=Idx(*(remote(*file) for file in files.items())), images=(TRAINING, HELD_OUT)
    )
    return Made(key, published, files, parts[0], parts[1])


def svhn() -> Made:
    """http://ufldl.stanford.edu/housenumbers/: X is H×W×3×N, y is N×1, 1 to 9, and 10 for the digit 0."""
    parts, files = [], {}
    for kind, count in (("train", TRAINING), ("test", HELD_OUT)):
        pixels = RANDOM.integers(0, 256, (count, 3, 32, 32), np.uint8)
        labels = [(7 * index) % 10 for index in range(count)]
        buffer = io.BytesIO()
        written = np.array([label or 10 for label in labels], np.uint8)[:, None]
        savemat(buffer, {"X": pixels.transpose(2, 3, 1, 0), "y": written}, do_compression=True)
        files[f"{kind}_32x32.mat"] = buffer.getvalue()
        parts.append((pixels, labels))
    published = replace(
        PUBLISHED["svhn"], files=Svhn(*(remote(*file) for file in files.items())), images=(TRAINING, HELD_OUT)
    )
    return Made("svhn", published, files, parts[0], parts[1])


def pickled(marker: Path) -> bytes:
    """A pickle that makes `marker` when it is loaded."""

    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (marker,)

    return pickle.dumps(Harmful())


def all_made() -> list[Made]:
    return [cifar("cifar10"), cifar("cifar100"), idx("mnist"), idx("fashion_mnist"), idx("kmnist"), svhn()]
