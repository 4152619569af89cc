"""Decoding: every format and mode that photographs come in, and whatever bytes may be sent instead."""

from io import BytesIO
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from models.manifest import Preprocessing
from models.preprocessing import FORMATS, image_to_pixels
from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from service.errors import ImageTooLargeError, ServiceError, UnusableImageError
from service.images import PixelBudget, decode
from tests.service.conftest import encoded

PREPROCESSING = Preprocessing(channels=3, height=32, width=32, resize=36)
RIGHT_SIZE = Preprocessing(channels=3, height=32, width=32, resize=32)
MAX_PIXELS = 1_000_000
PHOTO = Image.fromarray(data.rocket())
# Where in the file, and which byte instead.
Damage = list[tuple[float, int]]
DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("format", "mode"),
    [(name, mode) for name in FORMATS for mode in ("RGB", "L", "P") if (name, mode) != ("JPEG", "P")],
)
def test_every_format(format: str, mode: str) -> None:  # noqa: A002
    content = encoded(PHOTO.convert(mode), format, **({"lossless": True} if format == "WEBP" else {}))
    pixels = decode(content, PREPROCESSING, PixelBudget(MAX_PIXELS))
    expected = image_to_pixels(PHOTO.convert(mode), PREPROCESSING)
    if (format, mode) != ("GIF", "RGB") and format != "JPEG":  # these lose something
        np.testing.assert_array_equal(pixels, expected)
    assert np.abs(pixels.astype(int) - expected).mean() < 6


@pytest.mark.parametrize(
    ("mode", "format"),
    [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("RGBA", "PNG"), ("LA", "PNG"), ("1", "PNG"), ("RGBA", "WEBP")],
)
def test_rarer_modes(mode: str, format: str) -> None:  # noqa: A002
    content = encoded(PHOTO.convert("L").convert(mode), format)
    pixels = decode(content, PREPROCESSING, PixelBudget(MAX_PIXELS)).astype(int)
    expected = image_to_pixels(PHOTO.convert("L"), Preprocessing.model_validate(PREPROCESSING)).astype(int)
    assert np.abs(pixels - expected).mean() < (100 if mode == "1" else 4)


def test_floating_point_pixels_are_refused_with_what_to_do() -> None:
    content = encoded(PHOTO.convert("F"), "TIFF")
    with pytest.raises(UnusableImageError, match="8 or 16 bits"):
        decode(content, PREPROCESSING, PixelBudget(MAX_PIXELS))


def test_the_images_of_a_request_share_one_budget() -> None:
    budget = PixelBudget(100_000)
    large = encoded(Image.new("RGB", (300, 200)), "PNG")
    small = encoded(Image.new("RGB", (10, 10)), "PNG")
    decode(large, PREPROCESSING, budget)
    with pytest.raises(ImageTooLargeError, match="leave 40,000 of the 100,000"):
        decode(large, PREPROCESSING, budget)
    decode(small, PREPROCESSING, budget)
    assert budget.left == 40_000 - 36 * 36


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits(format: str) -> None:  # noqa: A002
    grey = np.asarray(PHOTO.convert("L"))
    content = encoded(Image.fromarray(grey.astype(np.uint16) * 257), format)
    expected = image_to_pixels(Image.fromarray(grey), PREPROCESSING)
    np.testing.assert_array_equal(decode(content, PREPROCESSING, PixelBudget(MAX_PIXELS)), expected)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_counts(format: str) -> None:  # noqa: A002
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "green")]
    content = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    pixels = decode(content, PREPROCESSING, PixelBudget(MAX_PIXELS))
    assert pixels[:, 16, 16].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_the_orientation_of_the_camera_is_undone() -> None:
    sideways = PHOTO.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(sideways, "PNG", exif=exif)
    expected = image_to_pixels(PHOTO, PREPROCESSING)
    np.testing.assert_array_equal(decode(content, PREPROCESSING, PixelBudget(MAX_PIXELS)), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_hide_the_image() -> None:
    content = encoded(PHOTO, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xee" * 40)
    expected = decode(encoded(PHOTO, "JPEG"), PREPROCESSING, PixelBudget(MAX_PIXELS))
    np.testing.assert_array_equal(decode(content, PREPROCESSING, PixelBudget(MAX_PIXELS)), expected)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_truncated_files_are_refused(format: str, share: float) -> None:  # noqa: A002
    whole = encoded(PHOTO, format)
    with pytest.raises(ServiceError):
        decode(whole[: int(len(whole) * share)], PREPROCESSING, PixelBudget(MAX_PIXELS))


@pytest.mark.parametrize("photo", [data.astronaut(), data.coffee(), data.text()], ids=["face", "cup", "grey page"])
@pytest.mark.parametrize("quality", [5, 75, 100])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": 0},
        {"subsampling": 1},
        {"progressive": True},
        {"optimize": True},
        {"restart_marker_rows": 1},
        {"keep_rgb": True},
        {"comment": "\xff\xe1"},
    ],
    ids=str,
)
@pytest.mark.parametrize("side", [8, 32, 33])
def test_a_jpeg_of_the_right_size_has_the_pixels_that_pillow_gives(
    photo: NDArray[np.uint8], quality: int, options: dict[str, Any], side: int
) -> None:
    content = encoded(Image.fromarray(photo).resize((side, side)), "JPEG", quality=quality, **options)
    for channels in (1, 3):
        preprocessing = Preprocessing(channels=channels, height=side, width=side, resize=side)
        expected = image_to_pixels(Image.open(BytesIO(content)), preprocessing)
        pixels = decode(content, preprocessing, PixelBudget(MAX_PIXELS))
        np.testing.assert_array_equal(pixels, expected)
        assert pixels.flags.c_contiguous


@pytest.mark.parametrize("marker", ["exif", "xmp"])
def test_a_jpeg_of_the_right_size_is_turned_upright(marker: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if marker == "exif" else {"xmp": b'<x:xmpmeta tiff:Orientation="6"/>'}
    square = PHOTO.resize((32, 32))
    sideways = square.transpose(Image.Transpose.ROTATE_90)
    pixels = decode(encoded(sideways, "JPEG", quality=100, **options), RIGHT_SIZE, PixelBudget(MAX_PIXELS))
    assert np.abs(pixels.astype(int) - image_to_pixels(square, RIGHT_SIZE)).mean() < 4


def test_a_jpeg_of_the_right_size_counts_against_the_budget() -> None:
    content = encoded(PHOTO.resize((32, 32)), "JPEG")
    budget = PixelBudget(32 * 32 + 1)
    decode(content, RIGHT_SIZE, budget)
    assert budget.left == 1
    with pytest.raises(ImageTooLargeError):
        decode(content, RIGHT_SIZE, budget)


@pytest.mark.parametrize("name", ["cifar10-resnet20-relu", "cifar10-preact-resnet20-mish"])
def test_what_shrinks_on_load_changes_the_logits_of_shipped_models_within_a_bound(name: str) -> None:
    bundle = ModelRepository(SHIPPED_MODELS).open(name)
    session = onnxruntime.InferenceSession(
        (bundle.path / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    exact = RIGHT_SIZE.model_copy(update={"shrink_on_load": False})
    pixels = []
    for photo in (data.astronaut(), data.cat(), data.coffee(), data.rocket()):
        for side in (190, 376, 748):  # little more than at which 1/2, 1/4 and 1/8 apply
            image = Image.fromarray(photo)
            scale = side / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
            content = encoded(image, "JPEG", quality=90)
            pixels += [decode(content, which, PixelBudget(MAX_PIXELS)) for which in (RIGHT_SIZE, exact)]
    logits = session.run(None, {"images": np.stack(pixels).astype(np.float32)})[0]
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    assert (np.stack(pixels[::2]) != np.stack(pixels[1::2])).any(axis=(1, 2, 3)).all()
    assert np.abs(logits[::2] - logits[1::2]).max() <= 0.3
    assert np.abs(probabilities[::2] - probabilities[1::2]).max() <= 0.08


# Pillow warns about much of it, and goes on.
@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=300)
@given(DAMAGE)
def test_a_damaged_jpeg_of_the_right_size_has_the_pixels_that_pillow_gives_if_it_gives_any(damage: Damage) -> None:
    content = damaged(encoded(PHOTO.resize((32, 32)), "JPEG"), damage)
    try:
        expected = image_to_pixels(Image.open(BytesIO(content), formats=["JPEG"]), RIGHT_SIZE)
    except Exception:
        assert_pixels_or_error(content, RIGHT_SIZE)
    else:
        np.testing.assert_array_equal(decode(content, RIGHT_SIZE, PixelBudget(MAX_PIXELS)), expected)


# Pillow warns about much of it, and goes on.
@pytest.mark.filterwarnings("ignore")
@settings(deadline=None)
@given(st.sampled_from(FORMATS), DAMAGE)
def test_damaged_files_give_pixels_or_an_error_and_nothing_else(name: str, damage: Damage) -> None:
    assert_pixels_or_error(damaged(SMALL[name], damage))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_an_error(content: bytes) -> None:
    assert_pixels_or_error(content)


SMALL = {name: encoded(PHOTO.resize((24, 16)), name) for name in FORMATS}


def assert_pixels_or_error(content: bytes, preprocessing: Preprocessing = PREPROCESSING) -> None:
    try:
        pixels = decode(content, preprocessing, PixelBudget(MAX_PIXELS))
    except (UnusableImageError, ImageTooLargeError):
        return
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == np.uint8


def damaged(content: bytes, damage: Damage) -> bytes:
    spoiled = bytearray(content)
    for place, value in damage:
        spoiled[int(place * (len(spoiled) - 1))] = value
    return bytes(spoiled)
