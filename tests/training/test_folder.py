"""The folder source on real image files."""

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.card import DataCard
from models.manifest import Preprocessing
from training.data import folder, reading
from training.data.card import data_card
from training.data.images import DataSet

SIZE = 6
PREPROCESSING = Preprocessing(channels=3, height=SIZE, width=SIZE, resize=SIZE)


def save(path: Path, class_number: int, number: int) -> None:
    """An image that carries its class and number in its colours; PNG keeps them exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((SIZE, SIZE, 3), (class_number, number, 77), np.uint8)
    pixels[0, 0, 2] = 200
    Image.fromarray(pixels).save(path)


def fill(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    for class_number, (name, count) in enumerate(counts.items()):
        for number in range(count):
            save(root / name / f"image{number:03}.png", class_number, start + number)
    return root


def contents(data: DataSet) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(class, number) of every image of both splits, after checking that labels and pixels agree."""
    splits = []
    for part in (data.training, data.held_out):
        assert part.pixels.dtype == np.uint8
        assert part.pixels.shape[1:] == (3, SIZE, SIZE)
        assert np.array_equal(part.pixels[:, 0, 3, 3], part.labels)
        assert np.all(part.pixels[:, 2, 0, 0] == 200)
        assert np.all(part.pixels[:, 2, 1:] == 77)
        splits.append([(int(image[0, 3, 3]), int(image[1, 3, 3])) for image in part.pixels])
    return splits[0], splits[1]


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("training", "validation"), ("train", "val"), ("Train", "TEST"), ("Training", "Testing")],
)
def test_given_splits(tmp_path: Path, train: str, test: str) -> None:
    fill(tmp_path / train, {"cat": 3, "dog": 2})
    fill(tmp_path / test, {"cat": 1, "dog": 2}, start=100)
    data = folder.load(tmp_path, PREPROCESSING)
    training, held_out = contents(data)
    assert sorted(training) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert sorted(held_out) == [(0, 100), (1, 100), (1, 101)]
    assert data.class_names == ("cat", "dog")
    assert data.mirrored
    assert data.preprocessing == PREPROCESSING
    assert data.source == f"image folder, {train} and {test}"


def test_the_card_says_which_of_two_held_out_splits_was_read(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        fill(tmp_path / part, {"cat": 2, "dog": 2})
    assert folder.load(tmp_path, PREPROCESSING).source == "image folder, train and test"


def test_a_training_split_alone_holds_out_a_share(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 20, "dog": 10})
    data = folder.load(tmp_path, PREPROCESSING)
    training, held_out = contents(data)
    assert sorted(training + held_out) == [(0, n) for n in range(20)] + [(1, n) for n in range(10)]
    assert [kind for kind, _ in held_out] == [0, 0, 1]
    assert (data.class_names, data.source) == (("cat", "dog"), "image folder, train")


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    fill(tmp_path, {"car": 2, "plane": 2, "train": 2})
    assert folder.load(tmp_path, PREPROCESSING).class_names == ("car", "plane", "train")


def test_a_held_out_split_alone(tmp_path: Path) -> None:
    fill(tmp_path / "test", {"cat": 2, "dog": 2})
    refused(tmp_path, f"{tmp_path} has test but no train to learn from")


def test_splits_of_loose_images_are_no_classes(tmp_path: Path) -> None:
    fill(tmp_path, {"Train": 3, "Test": 3})
    refused(tmp_path, f"{tmp_path / 'Train'} has 0 sub-folders")


def test_flat_folder_holds_out_a_tenth_of_every_class(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 40, "dog": 20, "emu": 20})
    training, held_out = contents(folder.load(tmp_path, PREPROCESSING))
    everything = [(0, n) for n in range(40)] + [(1, n) for n in range(20)] + [(2, n) for n in range(20)]
    assert sorted(training + held_out) == everything
    assert [sum(kind == wanted for kind, _ in held_out) for wanted in range(3)] == [4, 2, 2]


def test_flat_folder_is_split_alike_every_time(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 10, "dog": 10})
    assert contents(folder.load(tmp_path, PREPROCESSING)) == contents(folder.load(tmp_path, PREPROCESSING))


@pytest.mark.parametrize("counts", [{"cat": 2, "dog": 2}, {"cat": 3, "dog": 2, "emu": 2}, {"cat": 60, "dog": 2}])
def test_two_images_of_a_class_are_enough(tmp_path: Path, counts: dict[str, int]) -> None:
    fill(tmp_path, counts)
    training, held_out = contents(folder.load(tmp_path, PREPROCESSING))
    assert {kind for kind, _ in training} == {kind for kind, _ in held_out} == set(range(len(counts)))
    assert len(training) + len(held_out) == sum(counts.values())


def test_other_files_and_hidden_folders_do_not_count(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 2, "dog": 2})
    fill(tmp_path / "test", {"cat": 1, "dog": 1})
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "README").write_text("not a class")
    (tmp_path / "train" / "cat" / "._image000.png").write_bytes(b"what macOS leaves behind")
    (tmp_path / "train" / "cat" / ".thumbnails").mkdir()
    data = folder.load(tmp_path, PREPROCESSING)
    assert data.class_names == ("cat", "dog")
    assert len(data.training) == 4


def test_images_a_level_down_are_not_left_out_in_silence(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 3, "dog": 3, "dog/puppies": 3})
    refused(tmp_path, f"{tmp_path / 'dog'} has a folder of its own, puppies, whose images nobody would see")


@pytest.mark.parametrize("backwards", [False, True])
def test_the_order_is_that_of_names(backwards: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the system lists them: the digest of the card is the same on every machine."""
    fill(tmp_path / "train", {"cat": 3, "dog": 2})
    fill(tmp_path / "test", {"cat": 2, "dog": 2})
    listed = os.scandir

    @contextmanager
    def scandir(path: Path) -> Iterator[list[os.DirEntry[str]]]:
        with listed(path) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=backwards)

    monkeypatch.setattr(os, "scandir", scandir)
    training, held_out = contents(folder.load(tmp_path, PREPROCESSING))
    assert training == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert held_out == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_suffixes_in_capital_letters(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 3, "dog": 3})
    for path in tmp_path.glob("dog/*.png"):
        path.rename(path.with_suffix(".PnG"))
    training, held_out = contents(folder.load(tmp_path, PREPROCESSING))
    assert len(training + held_out) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not have names that are no text")
@pytest.mark.parametrize("name", [b"b\xff", b"b\n", b"b\x1b[31m", b" "])
def test_a_class_whose_name_cannot_be_shown(name: bytes, tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 3, "dog": 3})
    (tmp_path / "dog").rename(tmp_path / os.fsdecode(name))
    refused(tmp_path, f"{tmp_path} has a class without a printable name ({os.fsdecode(name)!a})")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not have names that are no text")
def test_a_corrupt_file_whose_name_is_no_text_goes_into_the_card(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 1, "dog": 1})
    fill(tmp_path / "test", {"cat": 1, "dog": 1})
    (tmp_path / "test" / "dog" / os.fsdecode(b"\xff.png")).write_bytes(b"no image")
    card = data_card(folder.load(tmp_path, PREPROCESSING, skip_corrupt=1))
    assert [each.image for each in card.skipped] == [r"test/dog/\xff.png"]
    assert DataCard.model_validate_json(card.model_dump_json()) == card


def test_name_is_the_folders_if_none_is_given(tmp_path: Path) -> None:
    assert folder.load(fill(tmp_path / "pets", {"cat": 2, "dog": 2}), PREPROCESSING).name == "pets"


def test_progress_is_told_up_to_the_last_image(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 3, "dog": 2})
    fill(tmp_path / "test", {"cat": 1, "dog": 1})
    told: list[tuple[int, int]] = []
    folder.load(tmp_path, PREPROCESSING, advance=lambda done, total: told.append((done, total)))
    assert told == [(done, 7) for done in range(1, 8)]


def test_large_sets_live_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"cat": 12, "dog": 12})
    in_memory = folder.load(tmp_path, PREPROCESSING)
    monkeypatch.setattr(reading, "IN_MEMORY_BYTES", 0)
    on_disk = folder.load(tmp_path, PREPROCESSING)
    assert isinstance(on_disk.training.pixels, np.memmap)
    assert np.array_equal(in_memory.training.pixels, on_disk.training.pixels)
    assert np.array_equal(in_memory.held_out.pixels, on_disk.held_out.pixels)


def refused(root: Path, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        folder.load(root, PREPROCESSING)


def test_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", f"data folder {tmp_path / 'nowhere'} does not exist")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(b"PK")
    refused(tmp_path / "pets.zip", "pets.zip is a file: give a folder")


def test_one_class_is_no_problem_to_learn(tmp_path: Path) -> None:
    refused(fill(tmp_path, {"cat": 5}), f"{tmp_path} has 1 sub-folders: a classifier needs at least 2 classes")


def test_no_class_at_all(tmp_path: Path) -> None:
    refused(tmp_path, f"{tmp_path} has 0 sub-folders")


def test_splits_with_different_classes(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 2, "dog": 2})
    fill(tmp_path / "test", {"cat": 1, "emu": 1})
    refused(tmp_path, "name different classes: ('cat', 'dog') and ('cat', 'emu')")


@pytest.mark.parametrize(("empty", "words"), [("train", "training"), ("test", "held-out")])
def test_class_without_an_image_in_a_split(tmp_path: Path, empty: str, words: str) -> None:
    fill(tmp_path / "train", {"cat": 2, "dog": 2})
    fill(tmp_path / "test", {"cat": 1, "dog": 1})
    for path in (tmp_path / empty / "dog").iterdir():
        path.unlink()
    refused(tmp_path, f"the {words} split of {tmp_path} has no image of class dog")


def test_class_without_an_image_in_a_flat_folder(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 5, "dog": 5})
    (tmp_path / "emu").mkdir()
    refused(tmp_path, f"{tmp_path} has no image of class emu")


def test_class_with_a_single_image_in_a_flat_folder(tmp_path: Path) -> None:
    refused(fill(tmp_path, {"cat": 5, "dog": 1}), "give every class at least 2")


def noise_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"this is not an image", noise_jpeg()[:400], b"\x89PNG\r\n\x1a\n" + b"\0" * 40],
    ids=["empty", "text", "truncated", "damaged"],
)
def test_a_bad_image_is_named(tmp_path: Path, content: bytes) -> None:
    fill(tmp_path / "train", {"cat": 2, "dog": 2})
    fill(tmp_path / "test", {"cat": 1, "dog": 1})
    bad = tmp_path / "train" / "dog" / "bad.jpg"
    bad.write_bytes(content)
    refused(tmp_path, f"{bad} cannot be read as an image")
