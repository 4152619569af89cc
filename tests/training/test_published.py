"""Published data sets from local files in their exact formats: what is read, and what is refused."""

import gzip
import io
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from tests.training.published_files import Made, all_made, cifar, idx, pickled, remote, svhn, tarred
from tests.training.reference.digests import DIGESTS
from training.data.download import RemoteFile
from training.data.images import DataSet
from training.data.published import PUBLISHED, list_published
from training.data.raw import Cifar, Idx, Svhn
from training.data.sources import DataConfig, load_data

MADE = {made.key: made for made in all_made()}


def load(made: Made, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> DataSet:
    monkeypatch.setitem(PUBLISHED, made.key, made.published)
    key: Any = made.key
    return load_data(DataConfig(data=key, data_dir=str(folder), **options))


def equal(data: DataSet, made: Made) -> None:
    for part, (pixels, labels) in ((data.training, made.training), (data.held_out, made.held_out)):
        np.testing.assert_array_equal(part.pixels, pixels)
        assert part.labels.tolist() == labels


def refused(made: Made, folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        list_published(made.published, folder, lambda _done, _total: None)


def test_every_published_set_is_made_here() -> None:
    assert list(MADE) == list(PUBLISHED)


@pytest.mark.parametrize("key", PUBLISHED)
def test_files_sizes_and_digests_are_those_that_others_publish(key: str) -> None:
    files = [value for value in vars(PUBLISHED[key].files).values() if isinstance(value, RemoteFile)]
    assert {file.url: (file.size, file.sha256) for file in files} == DIGESTS[key]


@pytest.mark.parametrize("key", MADE)
def test_files_as_they_are_published(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = MADE[key]
    data = load(made, made.write(tmp_path), monkeypatch)
    equal(data, made)
    assert data.name == made.published.title
    assert data.preprocessing.height == data.preprocessing.resize == made.training[0].shape[2]
    assert data.preprocessing.channels == made.training[0].shape[1]
    assert data.mirrored is made.published.mirrored
    assert len(data.class_names) == 10


@pytest.mark.parametrize("key", ["cifar10", "cifar100"])
@pytest.mark.parametrize("inside", [True, False], ids=["the folder", "its content"])
def test_an_extracted_cifar(key: str, inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = MADE[key]
    files = made.published.files
    assert isinstance(files, Cifar)
    with tarfile.open(fileobj=io.BytesIO(made.files[files.archive.name])) as archive:
        archive.extractall(tmp_path, filter="data")
    data = load(made, tmp_path if inside else tmp_path / files.folder, monkeypatch)
    equal(data, made)
    assert data.class_names == tuple(f"class{number}" for number in range(10))


def test_idx_files_that_are_not_compressed_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = MADE["mnist"]
    for name, content in made.files.items():
        (tmp_path / name.removesuffix(".gz")).write_bytes(gzip.decompress(content))
    equal(load(made, tmp_path, monkeypatch), made)


def test_images_can_be_resized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = MADE["mnist"]
    data = load(made, made.write(tmp_path), monkeypatch, image_size=32)
    assert data.training.pixels.shape == (20, 1, 32, 32)
    assert data.sizes is not None
    assert data.sizes.tolist() == [[28, 28]] * 30


def test_files_in_each_others_place_are_found_out(tmp_path: Path) -> None:
    """Those of MNIST, Fashion-MNIST and KMNIST have the same names."""
    MADE["kmnist"].write(tmp_path)
    refused(MADE["fashion_mnist"], tmp_path, "it is damaged or another file")


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / next(iter(MADE["svhn"].files))).mkdir()
    refused(MADE["svhn"], tmp_path, f"{tmp_path / 'train_32x32.mat'} is no file: remove it")


def test_an_extracted_file_that_is_much_too_large(tmp_path: Path) -> None:
    made = MADE["cifar10"]
    files = made.published.files
    assert isinstance(files, Cifar)
    with tarfile.open(fileobj=io.BytesIO(made.files[files.archive.name])) as archive:
        archive.extractall(tmp_path, filter="data")
    place = tmp_path / files.folder
    with (place / "data_batch_2.bin").open("r+b") as file:
        file.truncate(1 << 40)
    refused(made, tmp_path, f"{place / 'data_batch_2.bin'} has more than 1,073,741,824 bytes: extract it again")


@pytest.mark.parametrize("made", [MADE["cifar10"], MADE["mnist"], MADE["svhn"]], ids=lambda made: str(made.key))
def test_another_file_of_that_name(made: Made, tmp_path: Path) -> None:
    made.write(tmp_path)
    name = next(iter(made.files))
    (tmp_path / name).write_bytes(made.files[name][:-1])
    refused(made, tmp_path, f"{tmp_path / name} has the SHA-256 ")


@pytest.mark.parametrize("key", ["cifar10", "cifar100"])
def test_the_pickled_version_is_refused_and_not_loaded(key: str, tmp_path: Path) -> None:
    files = MADE[key].published.files
    assert isinstance(files, Cifar)
    for name in files.pickled:
        folder = tmp_path / name
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(pickled(tmp_path / "executed"))
        refused(MADE[key], folder, f"pickled and could execute code: give the binary version, {files.archive.name}")
        refused(MADE[key], folder, files.archive.sha256)
    assert not (tmp_path / "executed").exists()


def test_members_of_a_tar_go_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = {"../outside.bin": b"x", "/tmp/reslens-outside.bin": b"x", "cifar-10-batches-bin/../../up": b"x"}
    made = cifar("cifar10", outside)
    folder = made.write(tmp_path / "inner")
    equal(load(made, folder, monkeypatch), made)
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
    assert [path.name for path in folder.iterdir()] == ["cifar-10-binary.tar.gz"]
    assert not Path("/tmp/reslens-outside.bin").exists()


def repacked(change: "dict[str, bytes | None]", link: str = "") -> Made:
    """CIFAR-10 with other members, and the digest of that."""
    made = MADE["cifar10"]
    files = made.published.files
    assert isinstance(files, Cifar)
    members: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(made.files[files.archive.name])) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            members[member.name] = file.read()
    for name, content in change.items():
        del members[f"{files.folder}/{name}"]
        if content is not None:
            members[f"{files.folder}/{name}"] = content
    packed = tarred(members)
    if link:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            member = tarfile.TarInfo(f"{files.folder}/{link}")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
        packed = buffer.getvalue()
    changed = replace(files, archive=remote(files.archive.name, packed))
    return replace(made, published=replace(made.published, files=changed), files={files.archive.name: packed})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (repacked({"test_batch.bin": None}), "has no test_batch.bin in cifar-10-batches-bin"),
        (repacked({"data_batch_3.bin": b"x" * 3072}), "data_batch_3.bin has 3,072 bytes, no whole records of 3073"),
        (repacked({"data_batch_3.bin": b""}), "data_batch_3.bin has 0 bytes"),
        (repacked({"data_batch_3.bin": bytes(3073)}), "these files have 17 and 10"),
        (repacked({"test_batch.bin": bytes([11] + [0] * 3072) * 10}), "has 10 classes, these files have the label 11"),
        (repacked({}, link="test_batch.bin"), "has no data_batch_1.bin"),
    ],
    ids=["missing", "not whole", "empty", "too few", "label", "link"],
)
def test_archives_with_other_content(made: Made, message: str, tmp_path: Path) -> None:
    refused(made, made.write(tmp_path), message)


def with_first(made: Made, content: bytes) -> Made:
    """The first file replaced, and its digest with it."""
    name = next(iter(made.files))
    files: Any = made.published.files
    field = next(field for field, value in vars(files).items() if getattr(value, "name", None) == name)
    changed = replace(files, **{field: remote(name, content)})
    return replace(made, published=replace(made.published, files=changed), files=made.files | {name: content})


def images_of_idx() -> bytes:
    return gzip.decompress(idx("mnist").files["train-images-idx3-ubyte.gz"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(images_of_idx()[:-1]), "should have 15,680 bytes behind its head and has others"),
        (gzip.compress(images_of_idx() + b"x"), "should have 15,680 bytes behind its head and has others"),
        (gzip.compress(b"\0\0\x0d\x03" + images_of_idx()[4:]), "is no IDX file of bytes in 3 dimensions"),
        (gzip.compress(images_of_idx()[:9]), "is no IDX file of bytes in 3 dimensions"),
        (gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "should have 79,228,162,458,924,105,385,300,197,375 bytes"),
        (gzip.compress(images_of_idx())[:-9], "cannot be read to its end"),
        (b"not compressed", "cannot be read to its end"),
    ],
    ids=["short", "long", "floats", "no head", "huge", "truncated", "text"],
)
def test_damaged_idx_files(content: bytes, message: str, tmp_path: Path) -> None:
    made = with_first(MADE["mnist"], content)
    assert isinstance(made.published.files, Idx)
    refused(made, made.write(tmp_path), message)


def matlab(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no MATLAB", "is no MATLAB file with X and y"),
        (matlab(X=np.zeros((32, 32, 3, 4), np.uint8)), "is no MATLAB file with X and y"),
        (matlab(X=np.zeros((32, 32, 3, 4)), y=np.ones((4, 1))), "has X of float64"),
        (matlab(X=np.zeros((32, 32, 3, 4), np.uint8), y=np.ones((5, 1))), "expected uint8, H×W×3×N"),
    ],
    ids=["text", "no labels", "floats", "lengths"],
)
def test_damaged_matlab_files(content: bytes, message: str, tmp_path: Path) -> None:
    made = with_first(svhn(), content)
    assert isinstance(made.published.files, Svhn)
    refused(made, made.write(tmp_path), message)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    refused(MADE["cifar10"], tmp_path / "nowhere", "is no folder: give one with the files of CIFAR-10, or an empty one")
