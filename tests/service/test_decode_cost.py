"""What decoding is expected to take: never less by much than it does, whatever the file is made to look like."""

import contextlib
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from models.manifest import Preprocessing
from models.preprocessing import FORMATS
from service.errors import ServiceError
from service.heads import MAX_HEAD_BYTES, PNG
from service.images import SECONDS_TO_OPEN, SECONDS_UNKNOWN, PixelBudget, decode, decode_cost
from tests.service.conftest import encoded

PREPROCESSING = Preprocessing(channels=3, height=32, width=32, resize=32)
PHOTO = Image.fromarray(data.rocket())
SMALL = PHOTO.resize((32, 32))
# Of an estimate that decides whether other requests wait meanwhile.
SHORT = 0.001


def cost(content: bytes) -> float:
    return decode_cost(content, PREPROCESSING)


def taken(content: bytes) -> float:
    """Seconds of this thread for the quickest of three times that it is decoded, or refused."""
    best = float("inf")
    for _ in range(3):
        started = time.thread_time()
        with contextlib.suppress(ServiceError):
            decode(content, PREPROCESSING, PixelBudget(50_000_000))
        best = min(best, time.thread_time() - started)
    return best


def chunk(name: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def header(width: int, height: int, bits: int, colours: int, interlaced: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, interlaced))


def pixels(width: int, height: int, bits: int, channels: int) -> bytes:
    """As little data as possible: all zero."""
    row = (width * bits * channels + 7) // 8 + 1
    return zlib.compress(bytes(row * height), 9)


def behind_text() -> bytes:
    """Where a header of 1×1 would lie, there is text."""
    text = chunk(b"tEXt", struct.pack(">II", 1, 1) + b"\0text")
    return PNG + text + header(7000, 7000, 1, 0) + chunk(b"IDAT", pixels(7000, 7000, 1, 1)) + chunk(b"IEND")


def second_header() -> bytes:
    large = header(7000, 7000, 1, 0) + chunk(b"IDAT", pixels(7000, 7000, 1, 1))
    return PNG + header(1, 1, 1, 0) + large + chunk(b"IEND")


def whole(*between: bytes, bits: int = 8, interlaced: int = 0, width: int = 32, height: int = 32) -> bytes:
    data = chunk(b"IDAT", pixels(width, height, bits, 3))
    return PNG + header(width, height, bits, 2, interlaced) + b"".join(between) + data + chunk(b"IEND")


def unfolding_text(name: bytes, head: bytes) -> Callable[[], bytes]:
    return lambda: whole(*[chunk(name, head + zlib.compress(bytes(1_000_000), 9))] * 60)


def many_scans(options: dict[str, Any], size: int = 320) -> Callable[[], bytes]:
    """A JPEG whose last scan comes a thousand times."""

    def make() -> bytes:
        content = encoded(PHOTO.resize((size, size)), "JPEG", quality=5, **options)
        last = content.rindex(b"\xff\xda")
        return content[:-2] + content[last:-2] * 1000 + b"\xff\xd9"

    return make


def one_colour_first() -> bytes:
    """A baseline JPEG that says its first scan has one colour of three: more may follow."""
    content = bytearray(encoded(SMALL, "JPEG"))
    content[content.index(b"\xff\xda") + 4] = 1
    return bytes(content)


def many_segments() -> bytes:
    content = encoded(SMALL, "JPEG")
    return content[:2] + b"\xff\xfe\x00\x02" * 20_000 + content[2:]


def many_tags() -> bytes:
    entries = b"".join(struct.pack("<HHII", 0x9000 + n, 1, 4, 1) for n in range(5000))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 5000) + entries + bytes(4)
    return encoded(SMALL, "JPEG", exif=exif)


NOT_PLAIN: dict[str, Callable[[], bytes]] = {
    "header behind text": behind_text,
    "second header": second_header,
    "interlaced": lambda: whole(interlaced=1),
    "sixteen bits": lambda: whole(bits=16),
    "profile that unfolds": unfolding_text(b"iCCP", b"name\0\0"),
    "text that unfolds": unfolding_text(b"zTXt", b"name\0\0"),
    "unicode that unfolds": unfolding_text(b"iTXt", b"name\0\1\0\0\0"),
    "many chunks": lambda: whole(*[chunk(b"tEXt", b"a\0")] * 300),
    "many empty data": lambda: whole(*[chunk(b"IDAT")] * 20_000),
    "long text": lambda: whole(chunk(b"tEXt", b"name\0" + b"x" * MAX_HEAD_BYTES)),
    "frames": lambda: encoded(SMALL, "PNG", save_all=True, append_images=[PHOTO.resize((32, 32), box=(0, 0, 9, 9))]),
    "no size": lambda: whole(width=0, height=0),
    "cut": lambda: whole()[:-12],
    "progressive": lambda: encoded(SMALL, "JPEG", progressive=True),
    "a thousand scans": many_scans({"progressive": True}),
    "one colour first": one_colour_first,
    "many segments": many_segments,
    "many tags": many_tags,
    "four inks": lambda: encoded(SMALL.convert("CMYK"), "JPEG"),
    "lossless": lambda: encoded(SMALL, "JPEG").replace(b"\xff\xc0", b"\xff\xc3"),
    "arithmetic": lambda: encoded(SMALL, "JPEG").replace(b"\xff\xc0", b"\xff\xc9"),
    "height later": lambda: encoded(SMALL, "JPEG").replace(b"\x08\x00\x20\x00\x20", b"\x08\x00\x00\x00\x20"),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_not_plain_counts_as_long(name: str) -> None:
    assert cost(NOT_PLAIN[name]()) == SECONDS_UNKNOWN


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"JPEG", "PNG"}))
def test_decoding_counts_as_long_where_the_size_is_not_at_hand(format: str) -> None:  # noqa: A002
    assert cost(encoded(PHOTO, format)) == SECONDS_UNKNOWN


PLAIN: list[tuple[str, str, dict[str, Any]]] = [
    ("JPEG", "RGB", {}),
    ("JPEG", "L", {"quality": 100}),
    ("JPEG", "RGB", {"restart_marker_rows": 1, "comment": "a comment"}),
    ("JPEG", "RGB", {"subsampling": 0, "optimize": True}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "LA", {}),
    ("PNG", "P", {"transparency": 1}),
    ("PNG", "1", {"dpi": (72, 72)}),
]


@pytest.mark.parametrize(("format", "mode", "options"), PLAIN)
def test_the_cost_of_plain_files_grows_with_the_pixels_that_their_head_tells(
    format: str,  # noqa: A002
    mode: str,
    options: dict[str, Any],
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a thumbnail has a size too: " + encoded(PHOTO.resize((8, 8)), "JPEG").decode("latin-1")
    small, large = (
        cost(encoded(PHOTO.resize(size).convert(mode), format, exif=exif, **options))
        for size in ((32, 32), (2000, 1000))
    )
    assert SECONDS_TO_OPEN < small < SHORT
    assert small + 2_000_000 * 5e-9 < large < SECONDS_UNKNOWN


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P"])
def test_plain_files_take_no_more_than_some_times_their_cost(mode: str) -> None:
    content = encoded(PHOTO.resize((400, 400)).convert(mode), "PNG")
    assert taken(content) < 5 * cost(content)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_what_cameras_write_counts(format: str) -> None:  # noqa: A002
    entries = b"".join(struct.pack("<HHII", 0x9000 + n, 1, 3000, 8) for n in range(270))
    content = encoded(SMALL, format, exif=b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 270) + entries + bytes(4))
    assert taken(content) < 5 * cost(content)


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1)])
def test_what_resizing_blows_up_counts(size: tuple[int, int]) -> None:
    content = encoded(Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)), "PNG")
    assert cost(content) > 32 * 32 * 3000 * 5e-9
    assert taken(content) < 5 * cost(content)


HEADS = st.sampled_from([b"", b"\xff\xd8\xff", PNG, PNG + header(3, 4, 8, 2)])


@settings(deadline=None)
@given(HEADS, st.binary())
def test_any_bytes_have_a_cost(head: bytes, rest: bytes) -> None:
    assert cost(head + rest) > 0


@settings(deadline=None)
@given(st.sampled_from(["JPEG", "PNG"]), st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=8))
def test_damaged_files_have_a_cost(format: str, damage: list[tuple[int, int]]) -> None:  # noqa: A002
    content = bytearray(encoded(SMALL, format))
    for place, byte in damage:
        content[place % len(content)] = byte
    assert cost(bytes(content)) > 0


def test_the_cost_of_a_small_jpeg_is_known_at_once() -> None:
    content = encoded(SMALL, "JPEG")
    times = []
    for _ in range(200):
        started = time.thread_time_ns()
        assert cost(content) < SHORT
        times.append(time.thread_time_ns() - started)
    assert min(times) < 100_000
