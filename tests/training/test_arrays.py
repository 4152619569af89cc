"""NumPy archives: every way in which images, labels and names are laid out in them, and what is refused."""

import re
import resource
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.published_files import pickled
from training.data.images import DataSet
from training.data.sources import DataConfig, load_data

RANDOM = np.random.default_rng(0)
LABELS = np.arange(40) % 4


def images(count: int = 40, *shape: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, (count, *(shape or (12, 12))), np.uint8)


def load(path: Path, **options: Any) -> DataSet:
    return load_data(DataConfig(data="npz", data_dir=str(path), **options))


def saved(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load(path, **options)


@pytest.mark.parametrize(
    ("shape", "channels"), [((12, 12), 1), ((12, 12, 1), 1), ((12, 12, 3), 3)], ids=["grey", "one channel", "colour"]
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_one_split(shape: tuple[int, ...], channels: int, save: Any, tmp_path: Path) -> None:
    pixels = images(40, *shape)
    save(tmp_path / "pets.npz", images=pixels, labels=LABELS, class_names=["ant", "bee", "cat", "dog"])
    data = load(tmp_path / "pets.npz")
    assert data.name == "pets"
    assert data.source == "NumPy, pets.npz"
    assert data.class_names == ("ant", "bee", "cat", "dog")
    assert (len(data.training), len(data.held_out)) == (36, 4)
    assert data.preprocessing.channels == channels
    assert data.preprocessing.height == data.preprocessing.resize == 12
    # Every image once, with its label.
    both = np.concatenate([data.training.pixels, data.held_out.pixels])
    labels = np.concatenate([data.training.labels, data.held_out.labels])
    expected = pixels.reshape(40, 12, 12, channels).transpose(0, 3, 1, 2)
    assert sorted((int(label), image.tobytes()) for label, image in zip(labels, both, strict=True)) == sorted(
        (int(label), image.tobytes()) for label, image in zip(LABELS, expected, strict=True)
    )


@pytest.mark.parametrize(
    ("training", "held_out"),
    [
        (("train_images", "train_labels"), ("test_images", "test_labels")),
        (("train_images", "train_labels"), ("val_images", "val_labels")),
        (("x_train", "y_train"), ("x_test", "y_test")),
    ],
)
def test_both_splits(training: tuple[str, str], held_out: tuple[str, str], tmp_path: Path) -> None:
    first, second = images(40, 9, 9, 3), images(8, 9, 9, 3)
    # MedMNIST has its labels in a column.
    arrays = {training[0]: first, training[1]: LABELS[:, None].astype(np.uint8)}
    arrays |= {held_out[0]: second, held_out[1]: LABELS[:8, None].astype(np.uint8)}
    data = load(saved(tmp_path / "a.npz", **arrays))
    np.testing.assert_array_equal(data.training.pixels, first.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.held_out.pixels, second.transpose(0, 3, 1, 2))
    assert data.held_out.labels.tolist() == LABELS[:8].tolist()
    assert data.class_names == ("0", "1", "2", "3")


def test_a_file_for_each_split(tmp_path: Path) -> None:
    first, second = images(), images(8)
    saved(tmp_path / "train.npz", images=first, labels=LABELS.astype(np.uint8))
    saved(tmp_path / "test.npz", images=second, labels=LABELS[:8])
    saved(tmp_path / "other.npz", images=second, labels=LABELS[:8])
    data = load(tmp_path)
    np.testing.assert_array_equal(data.training.pixels[:, 0], first)
    np.testing.assert_array_equal(data.held_out.pixels[:, 0], second)
    assert data.name == tmp_path.name


def test_labels_as_strings(tmp_path: Path) -> None:
    names = np.array(["emu", "cat", "dog", "bee"])[LABELS]
    pixels = images()
    path = saved(tmp_path / "a.npz", x_train=pixels, y_train=names, x_test=pixels, y_test=names)
    data = load(path)
    assert data.class_names == ("bee", "cat", "dog", "emu")
    assert data.training.labels.tolist() == [3, 1, 2, 0] * 10
    (tmp_path / "names.txt").write_text("emu\ncat\ndog\nbee\n")
    ordered = load(path, classes=str(tmp_path / "names.txt"))
    assert ordered.class_names == ("emu", "cat", "dog", "bee")
    assert ordered.training.labels.tolist() == [0, 1, 2, 3] * 10


def test_given_names_take_the_place_of_those_in_the_file(tmp_path: Path) -> None:
    saved(tmp_path / "a.npz", images=images(), labels=LABELS, class_names=["w", "x", "y", "z"])
    (tmp_path / "names.json").write_text('["ant", "bee", "cat", "dog"]')
    assert load(tmp_path / "a.npz", classes=str(tmp_path / "names.json")).class_names == ("ant", "bee", "cat", "dog")


@pytest.mark.parametrize(("share", "each"), [(None, 1), (0.3, 3), (0.01, 1), (0.99, 9)])
def test_the_share_that_is_held_out(share: float | None, each: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", images=images(), labels=LABELS)
    first, again = (load(path, held_out_share=share) for _ in range(2))
    assert np.bincount(first.held_out.labels).tolist() == [each] * 4
    np.testing.assert_array_equal(first.held_out.pixels, again.held_out.pixels)


def test_images_that_are_not_square_are_cropped(tmp_path: Path) -> None:
    pixels = images(40, 10, 16)
    data = load(
        saved(tmp_path / "a.npz", train_images=pixels, train_labels=LABELS, test_images=pixels, test_labels=LABELS)
    )
    np.testing.assert_array_equal(data.training.pixels[:, 0], pixels[:, :, 3:13])


def test_options_that_every_source_has(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", images=images(), labels=LABELS)
    data = load(path, mirrored=False, data_name="Things", image_size=8, class_weights={"2": 3.0})
    assert (data.name, data.mirrored, data.preprocessing.height) == ("Things", False, 8)
    assert data.class_weights == pytest.approx((2 / 3, 2 / 3, 2, 2 / 3))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "floats": ({"images": images().astype(np.float32), "labels": LABELS}, "images of type float32: give uint8"),
    "two dimensions": ({"images": images(40, 144), "labels": LABELS}, "images of shape (40, 144): give N×H×W, or"),
    "channels first": ({"images": images(40, 3, 12, 12), "labels": LABELS}, "images of shape (40, 3, 12, 12)"),
    "no image": ({"images": images(0, 9, 9), "labels": LABELS[:0]}, "has no image: its shape is (0, 9, 9)"),
    "a single label": ({"images": images(), "labels": np.array(3)}, "has 40 images and a single label"),
    "too few labels": ({"images": images(), "labels": LABELS[1:]}, "has 40 images and 39 labels"),
    "no labels": ({"images": images()}, "has images: give images and labels, or train_images"),
    "nothing": ({}, "has nothing: give images and labels"),
    "fractions": ({"images": images(), "labels": LABELS / 2}, "labels of type float64: give integers from 0, or"),
    "one-hot": ({"images": images(), "labels": np.eye(4)[LABELS]}, "labels of shape (40, 4): give one label an image"),
    "one class": ({"images": images(), "labels": LABELS * 0}, "has 1 classes: a classifier needs at least 2"),
    "a gap": ({"images": images(), "labels": LABELS * 2}, "has no image of class 1, 3, 5"),
    "negative": ({"images": images(), "labels": LABELS - 1}, "has the label -1: use 0 to 2"),
    "huge": ({"images": images(), "labels": LABELS * 10**9}, "has the label 3000000000: number the classes from 0"),
    "beyond signed": (
        {"images": images(), "labels": LABELS.astype(np.uint64) + np.uint64(2**63)},
        "has the label 9223372036854775811: number the classes from 0",
    ),
    "a blank name": (
        {"images": images(), "labels": LABELS, "class_names": ["a", " ", "c", "d"]},
        "has a class without a printable name (' ')",
    ),
    "a name of two lines": (
        {"images": images(), "labels": np.array(["a", "b\nc"])[LABELS % 2]},
        r"has a class without a printable name ('b\nc')",
    ),
    "a name that is no text": (
        {"images": images(), "labels": LABELS, "class_names": ["a", "\udcff", "c", "d"]},
        r"has a class without a printable name ('\udcff')",
    ),
    "large images": (
        {"images": np.zeros((8, 1025, 1025), np.uint8), "labels": LABELS[:8]},
        "has images of 1025 pixels a side: give --image-size, at most 1024",
    ),
    "more than names": (
        {"images": images(), "labels": LABELS, "class_names": ["a", "b", "c"]},
        "has the label 3: use 0 to 2, as many as there are classes",
    ),
    "names as numbers": (
        {"images": images(), "labels": LABELS, "class_names": [1, 2, 3, 4]},
        "class_names of",
    ),
    "a single image": ({"images": images(5), "labels": [0, 0, 1, 1, 2]}, "has a class with 1 image (2)"),
    "other size held out": (
        {"x_train": images(40, 8, 8), "y_train": LABELS, "x_test": images(40, 9, 9), "y_test": LABELS},
        "images of different shapes, (8, 8) and (9, 9): resize them alike",
    ),
    "other labels held out": (
        {"x_train": images(), "y_train": LABELS, "x_test": images(), "y_test": LABELS.astype(str)},
        "have labels of different types",
    ),
    "a class only held out": (
        {"x_train": images(20), "y_train": LABELS[:20] % 3, "x_test": images(20), "y_test": LABELS[:20]},
        "the training split of",
    ),
    "a class only in training": (
        {"x_train": images(20), "y_train": LABELS[:20], "x_test": images(20), "y_test": LABELS[:20] % 3},
        "has no image of class 3: give every class at least one image in both splits",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_learned_from(name: str, tmp_path: Path) -> None:
    arrays, message = BAD[name]
    path = saved(tmp_path / "a.npz", **arrays)
    refused(path, message)
    refused(path, str(path))


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    mixed = np.empty(2, object)
    mixed[:] = [images(1, 4, 4)[0], images(1, 5, 5)[0]]
    refused(saved(tmp_path / "a.npz", images=mixed, labels=[0, 1]), "images of different sizes belong into a folder")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        head = b"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }".ljust(117) + b"\n"
        payload = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + pickled(tmp_path / "executed")
        archive.writestr("images.npy", payload)
        archive.writestr("labels.npy", payload)
    refused(tmp_path / "b.npz", "array images of")
    assert not (tmp_path / "executed").exists()


def test_arrays_in_folders_of_the_archive_are_others(tmp_path: Path) -> None:
    saved(tmp_path / "b.npz", **{"../images": images(), "/labels": LABELS})
    refused(tmp_path / "b.npz", "b.npz has ../images, /labels: give images and labels")


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of files stands for a disk without room")
def test_a_disk_without_room_for_what_an_archive_unpacks(tmp_path: Path) -> None:
    """A few kilobytes that say they are 100 MB: the room is asked for before any of it is written."""
    path = saved(tmp_path / "a.npz", images=np.zeros((25_000, 64, 64), np.uint8), labels=np.arange(25_000) % 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 << 20, limits[1]))
    try:
        refused(path, "it needs 102,400,128 bytes in ")
        refused(path, "set TMPDIR to a larger disk")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_arrays_in_fortran_order(tmp_path: Path) -> None:
    pixels = np.asfortranarray(images(40, 12, 12, 3))
    data = load(saved(tmp_path / "a.npz", x_train=pixels, y_train=LABELS, x_test=pixels, y_test=LABELS))
    np.testing.assert_array_equal(data.training.pixels, pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("cut", [10, 500, 3000])
def test_a_truncated_archive(cut: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", images=images(), labels=LABELS)
    path.write_bytes(path.read_bytes()[:-cut])
    refused(path, f"{path} is no whole NumPy archive")


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", images=images(), labels=LABELS)
    content = bytearray(path.read_bytes())
    content[300:400] = bytes(100)
    path.write_bytes(content)
    refused(path, f"array images of {path} cannot be read")


def test_what_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", images())
    refused(tmp_path / "a.npy", "a.npy is no whole NumPy archive")
    refused(tmp_path / "nowhere.npz", "nowhere.npz does not exist: give a .npz file, or a folder of them")
    refused(tmp_path, f"{tmp_path} has no .npz file: give one, or a folder with train*.npz and test*.npz")


def test_folders_that_leave_open_what_to_read(tmp_path: Path) -> None:
    saved(tmp_path / "one.npz", images=images(), labels=LABELS)
    saved(tmp_path / "two.npz", images=images(), labels=LABELS)
    refused(tmp_path, "has several archives (one.npz, two.npz): name one")
    saved(tmp_path / "test.npz", images=images(), labels=LABELS)
    refused(tmp_path, "has test.npz but no train*.npz to train on")


def test_a_share_where_there_is_a_split(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", x_train=images(), y_train=LABELS, x_test=images(), y_test=LABELS)
    refused(path, "--held-out-share 0.2 has no meaning", held_out_share=0.2)
