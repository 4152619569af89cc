"""Images of every kind: the very pixels that the service sees, and what cannot be read is listed."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
from PIL import Image

from models.manifest import Preprocessing
from models.preprocessing import image_to_pixels
from service.images import PixelBudget, decode
from tests.service.test_odd_images import READABLE, REFUSED
from tests.training.conftest import ROOT
from training.data import reading
from training.data.folder import list_images
from training.data.images import DataSet
from training.data.listing import Listing, Sample
from training.data.parquet import list_parquet
from training.data.reading import read

COLOUR = Preprocessing(channels=3, height=24, width=24, resize=28)
GREY = COLOUR.model_copy(update={"channels": 1})


def photograph(name: str, quality: int = 90, orientation: int = 1) -> bytes:
    buffer, exif = BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(getattr(skimage.data, name)()).save(buffer, "JPEG", quality=quality, exif=exif)
    return buffer.getvalue()


# Large photographs shrink on load; small ones of the right size take the short way to the decoder in the service.
FILES = {name: content for name, (content, _) in READABLE.items()} | {
    "photograph": photograph("coffee"),
    "photograph, turned": photograph("rocket", orientation=8),
    "photograph, grey": photograph("brick"),
}


def in_a_folder(folder: Path) -> Listing:
    """The files in both classes of both splits."""
    for split in ("train", "test"):
        for kind in ("even", "odd"):
            (folder / split / kind).mkdir(parents=True)
            for number, content in enumerate(FILES.values()):
                (folder / split / kind / f"{number:02}.png").write_bytes(content)
    return list_images(folder)


def in_parquet(folder: Path) -> Listing:
    contents = [*FILES.values()] * 2
    labels = ["even"] * len(FILES) + ["odd"] * len(FILES)
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": contents, "label": labels}), folder / f"{split}.parquet")
    return list_parquet(folder)


@pytest.mark.parametrize("listed", [in_a_folder, in_parquet])
@pytest.mark.parametrize("preprocessing", [COLOUR, GREY], ids=["colour", "grey"])
def test_folders_and_parquet_give_the_pixels_that_the_service_decodes(
    listed: Callable[[Path], Listing], preprocessing: Preprocessing, tmp_path: Path
) -> None:
    data = read(listed(tmp_path), preprocessing)
    expected = np.stack([decode(content, preprocessing, PixelBudget(10**8)) for content in FILES.values()] * 2)
    np.testing.assert_array_equal(data.training.pixels, expected)
    np.testing.assert_array_equal(data.held_out.pixels, expected)


def test_arrays_are_read_as_images_of_that_content(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 4), np.uint8)
    samples = [Sample(f"image {index}", image) for index, image in enumerate(pixels)]
    listing = Listing("a", "b", tmp_path, samples, np.array([0, 1, 0]), np.array([True] * 3), ("x", "y"), mirrored=True)
    data = read(listing, COLOUR, every_class=False)
    for image, seen in zip(pixels, data.held_out.pixels, strict=True):
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        np.testing.assert_array_equal(seen, decode(buffer.getvalue(), COLOUR, PixelBudget(10**6)))
    assert data.sizes is not None
    assert data.sizes.tolist() == [[50, 40]] * 3


@pytest.mark.parametrize("shape", [(24, 24), (24, 24, 3), (24, 24, 4), (25, 24, 3)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_the_right_size_take_a_short_way_to_the_same_pixels(
    shape: tuple[int, ...], channels: int, tmp_path: Path
) -> None:
    preprocessing = COLOUR.model_copy(update={"channels": channels, "resize": 24})
    pixels = np.random.default_rng(0).integers(0, 256, (50, *shape), np.uint8)
    samples = [Sample(f"image {index}", image) for index, image in enumerate(pixels)]
    labels = np.arange(50) % 2
    data = read(
        Listing("a", "b", tmp_path, samples, labels, labels == 2, ("x", "y"), True), preprocessing, 0, every_class=False
    )
    expected = np.stack([image_to_pixels(Image.fromarray(image), preprocessing) for image in pixels])
    np.testing.assert_array_equal(data.training.pixels, expected)
    assert data.sizes is not None
    assert data.sizes.tolist() == [[shape[1], shape[0]]] * 50


def corrupt_folder(folder: Path, bad: int) -> Path:
    """Six images that can be read in each class of each split, and `bad` ones in train/odd that cannot."""
    buffer = BytesIO()
    Image.new("RGB", (30, 30), (10, 20, 30)).save(buffer, "PNG")
    contents = [content for content, *_ in REFUSED.values()]
    for split in ("train", "test"):
        for kind in ("even", "odd"):
            (folder / split / kind).mkdir(parents=True)
            for number in range(6):
                (folder / split / kind / f"good{number}.png").write_bytes(buffer.getvalue())
    for number in range(bad):
        (folder / "train" / "odd" / f"bad{number:02}.jpg").write_bytes(contents[number % len(contents)])
    return folder


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_read_is_skipped_and_listed_up_to_the_limit(tmp_path: Path) -> None:
    corrupt_folder(tmp_path, len(REFUSED))
    listing = list_images(tmp_path)
    # Enlarged, the one that is long and thin would have more pixels than are allowed.
    large = COLOUR.model_copy(update={"height": 448, "width": 448, "resize": 448})
    data = read(listing, large, skip_corrupt=8)
    assert [each.image for each in data.skipped] == [f"train/odd/bad{number:02}.jpg" for number in range(8)]
    reasons = dict(zip(REFUSED, (each.reason for each in data.skipped), strict=True))
    assert "truncated" in reasons["truncated JPEG"]
    assert "exceeds limit" in reasons["pixel bomb"]
    assert "no whole file of format JPEG, PNG" in reasons["text named .jpg"] == reasons["empty file"]
    assert "floating-point" in reasons["floating point"]
    assert "1×30000 pixels would have 448×13440000 after resizing" in reasons["long and thin"]
    assert not any(str(tmp_path) in reason for reason in reasons.values()), "a record names no folder of this machine"
    assert (len(data.training), len(data.held_out)) == (12, 12)
    assert data.training.labels.tolist() == [0] * 6 + [1] * 6
    assert data.sizes is not None
    assert len(data.sizes) == 24
    with pytest.raises(ValueError, match=r"8 images of .* cannot be read, and --skip-corrupt allows 7: mend") as raised:
        read(listing, large, skip_corrupt=7)
    for each in data.skipped:
        assert f"\n  {each.image}: {each.reason}" in str(raised.value)


def test_reading_stops_where_nearly_all_is_corrupt(tmp_path: Path) -> None:
    def endless() -> Iterator[Sample]:
        for number in range(10_000):
            yield Sample(f"row {number}", b"no image")
        raise AssertionError("read on")

    labels = np.arange(20_000) % 2
    listing = Listing("a", "b", tmp_path, endless(), labels, labels == 2, ("x", "y"), mirrored=True)
    with pytest.raises(ValueError, match=r"at least 24 images of .* allows 3(.|\n)*row 19: .*\n  …$"):
        read(listing, COLOUR, skip_corrupt=3, every_class=False)


def test_a_class_of_which_all_images_are_corrupt(tmp_path: Path) -> None:
    corrupt_folder(tmp_path, 0)
    for path in (tmp_path / "test" / "odd").iterdir():
        path.write_bytes(b"no image")
    message = f"the held-out split of {tmp_path}, without the 6 that cannot be read, has no image of class odd"
    with pytest.raises(ValueError, match=re.escape(message)):
        read(list_images(tmp_path), COLOUR, skip_corrupt=100)


def test_a_file_that_may_not_be_read_is_corrupt_too(tmp_path: Path) -> None:
    corrupt_folder(tmp_path, 0)
    (tmp_path / "train" / "odd" / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "train" / "odd" / "folder.png").mkdir()
    data = read(list_images(tmp_path), COLOUR, skip_corrupt=2)
    assert {each.image: each.reason for each in data.skipped} == {
        "train/odd/folder.png": "it is no regular file",
        "train/odd/gone.png": "No such file or directory",
    }


@pytest.mark.skipif(sys.platform == "win32", reason="needs a named pipe")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    corrupt_folder(tmp_path, 0)
    os.mkfifo(tmp_path / "train" / "odd" / "pipe.png")
    data = read(list_images(tmp_path), COLOUR, skip_corrupt=1)
    assert [(each.image, each.reason) for each in data.skipped] == [("train/odd/pipe.png", "it is no regular file")]


def test_large_pictures_are_read_without_a_word_of_the_library(tmp_path: Path) -> None:
    """Warnings are errors here: Pillow has one for images of more than 89 megapixels."""
    corrupt_folder(tmp_path, 0)
    Image.new("1", (9500, 9500)).save(tmp_path / "train" / "odd" / "large.png")
    data = read(list_images(tmp_path), COLOUR)
    assert data.sizes is not None
    assert data.sizes.max() == 9500


def test_of_large_encoded_images_few_are_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", 1000)
    content, pulled, done = photograph("brick", quality=20), 0, 0

    def samples() -> Iterator[Sample]:
        nonlocal pulled
        for number in range(9):
            pulled += 1
            assert pulled - done <= 2, "one to be decoded, one decoded"
            yield Sample(str(number), content)

    def advance(read: int, _total: int) -> None:
        nonlocal done
        done = read

    labels = np.arange(9) % 2
    listing = Listing("a", "b", tmp_path, samples(), labels, labels == 2, ("x", "y"), mirrored=True)
    assert len(read(listing, COLOUR, 0, advance, every_class=False).training) == 9


def test_no_interpreter_of_a_page_language_is_started(tmp_path: Path) -> None:
    """Pillow would give EPS to Ghostscript; the service reads photographs alone, and so does training."""
    corrupt_folder(tmp_path, 0)
    (tmp_path / "train" / "odd" / "bad.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
    )
    data = read(list_images(tmp_path), COLOUR, skip_corrupt=1)
    assert "no whole file of format" in data.skipped[0].reason


def test_pixels_on_disk_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corrupt_folder(tmp_path, 2)
    listing = list_images(tmp_path)

    def pixels(data: DataSet) -> bytes:
        return data.training.pixels.tobytes() + data.held_out.pixels.tobytes()

    in_memory = read(listing, COLOUR, skip_corrupt=2)
    monkeypatch.setattr(reading, "IN_MEMORY_BYTES", 0)
    on_disk = read(listing, COLOUR, skip_corrupt=2)
    assert isinstance(on_disk.training.pixels, np.memmap)
    assert pixels(in_memory) == pixels(on_disk)


@pytest.mark.skipif(sys.platform != "linux", reason="room on a disk is reserved where the system can")
def test_a_full_disk_ends_in_words_and_not_in_a_signal(tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk: both are found out by reserving, before a page is written."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20));"
        "from training.data import reading; reading.IN_MEMORY_BYTES = 0\n"
        "try: reading.allocate((1000, 3, 64, 64))\n"
        "except ValueError as error: sys.exit(str(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert f"a temporary file of 12,288,000 bytes, for which {tmp_path} has no room (File too large)" in done.stderr
    assert "set TMPDIR to a larger disk, or give a smaller --image-size" in done.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1 << 20
    assert not any(tmp_path.iterdir())
