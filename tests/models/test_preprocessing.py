"""Pre-processing against its definition, and at its borders."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from models.manifest import HostNormalisation, Preprocessing
from models.preprocessing import RESAMPLING, image_to_pixels, pixels_to_tensor, resized_size

COLOUR = Preprocessing(channels=3, height=32, width=32, resize=40)
GREY = COLOUR.model_copy(update={"channels": 1})


def same_size(channels: int, width: int, height: int) -> Preprocessing:
    """Pre-processing that neither resizes nor crops a square image."""
    return Preprocessing.model_construct(
        channels=channels, height=height, width=width, resize=min(width, height), interpolation="bilinear"
    )


@pytest.mark.parametrize("interpolation", RESAMPLING)
def test_a_photograph_is_resized_by_its_shorter_side_and_cropped_at_the_centre(interpolation: str) -> None:
    photo = Image.fromarray(data.coffee())  # 600×400
    preprocessing = COLOUR.model_copy(update={"interpolation": interpolation})
    resized = photo.resize((60, 40), RESAMPLING[interpolation])
    expected = np.asarray(resized)[4:36, 14:46].transpose(2, 0, 1)
    np.testing.assert_array_equal(image_to_pixels(photo, preprocessing), expected)


def test_an_image_of_the_right_size_is_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    preprocessing = COLOUR.model_copy(update={"resize": 32})
    result = image_to_pixels(Image.fromarray(pixels), preprocessing)
    np.testing.assert_array_equal(result, pixels.transpose(2, 0, 1))
    assert result.flags.c_contiguous


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 500))
def test_resizing_keeps_the_aspect_ratio_and_reaches_the_crop(width: int, height: int, side: int) -> None:
    preprocessing = Preprocessing(channels=1, height=side, width=side, resize=side)
    resized = resized_size((width, height), preprocessing)
    assert min(resized) == side
    scale = side / min(width, height)
    assert resized == (pytest.approx(width * scale, abs=0.5), pytest.approx(height * scale, abs=0.5))


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1), (31, 33), (32, 32), (41, 40), (999, 7)])
@pytest.mark.parametrize("preprocessing", [COLOUR, GREY])
def test_every_size_gives_the_crop(size: tuple[int, int], preprocessing: Preprocessing) -> None:
    image = Image.new("RGB", size, (10, 20, 30))
    pixels = image_to_pixels(image, preprocessing)
    assert pixels.shape == (preprocessing.channels, 32, 32)
    assert pixels.dtype == np.uint8
    assert len(np.unique(pixels)) == preprocessing.channels


MODES = {
    "RGB": ((200, 100, 50), (200, 100, 50)),
    "L": (77, (77, 77, 77)),
    "1": (1, (255, 255, 255)),
    "RGBA": ((200, 100, 50, 255), (200, 100, 50)),
    "LA": ((77, 255), (77, 77, 77)),
    "CMYK": ((0, 0, 255, 0), (255, 255, 0)),
    "I;16": (77 * 256 + 200, (77, 77, 77)),
    "I": (77 * 256 + 200, (77, 77, 77)),
    "YCbCr": ((128, 128, 128), (128, 128, 128)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_colour(mode: str) -> None:
    value, expected = MODES[mode]
    pixels = image_to_pixels(Image.new(mode, (32, 32), value), COLOUR)
    assert pixels[:, 0, 0].tolist() == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_grey(mode: str) -> None:
    value, (red, green, blue) = MODES[mode]
    pixels = image_to_pixels(Image.new(mode, (32, 32), value), GREY)
    # ITU-R 601-2 luma
    assert pixels[0, 0, 0] == pytest.approx(0.299 * red + 0.587 * green + 0.114 * blue, abs=1)


def test_sixteen_bits_keep_the_high_byte() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels = image_to_pixels(Image.fromarray(values), same_size(1, 256, 256))
    np.testing.assert_array_equal(pixels[0], values >> 8)


PHOTOGRAPHS = {"face": data.astronaut, "cat": data.cat, "cup": data.coffee, "rocket": data.rocket, "bricks": data.brick}


def jpeg(image: Image.Image, orientation: int = 1, **options: object) -> Image.Image:
    """The image, opened as a JPEG and not loaded."""
    file, exif = BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(file, "JPEG", quality=90, exif=exif, **options)
    return Image.open(file)


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
@pytest.mark.parametrize("interpolation", sorted({*RESAMPLING} - {"box"}))
@pytest.mark.parametrize("enlarged", [1, 2.7])
@pytest.mark.parametrize(("orientation", "channels"), [(1, 3), (6, 3), (1, 1)])
def test_what_shrinks_on_load_stays_within_the_bound(
    photograph: str, interpolation: str, enlarged: float, orientation: int, channels: int
) -> None:
    photo = Image.fromarray(PHOTOGRAPHS[photograph]())
    photo = photo.resize((int(photo.width * enlarged), int(photo.height * enlarged)), Image.Resampling.LANCZOS)
    preprocessing = COLOUR.model_copy(update={"interpolation": interpolation, "channels": channels})
    exact = preprocessing.model_copy(update={"shrink_on_load": False})
    opened = jpeg(photo, orientation)
    difference = np.abs(
        image_to_pixels(opened, preprocessing).astype(int) - image_to_pixels(jpeg(photo, orientation), exact)
    )
    assert opened.size < photo.size
    assert difference.max() <= 16
    assert difference.mean() <= 1


@pytest.mark.parametrize(
    ("image", "changed"),
    [
        (jpeg(Image.fromarray(data.coffee()).resize((347, 231))), {}),  # 231/2 < 2.9 × 40
        (jpeg(Image.fromarray(data.coffee())), {"interpolation": "box"}),
        (jpeg(Image.fromarray(data.coffee())), {"shrink_on_load": False}),
        (jpeg(Image.fromarray(data.coffee()).convert("CMYK")), {}),
        (Image.fromarray(data.coffee()), {}),
    ],
    ids=["too small", "box", "switched off", "CMYK", "not JPEG"],
)
def test_what_may_not_shrink_on_load_is_decoded_whole(image: Image.Image, changed: dict[str, object]) -> None:
    preprocessing = COLOUR.model_copy(update=changed)
    whole = image.size
    pixels = image_to_pixels(image, preprocessing)
    assert image.size == whole
    resized = image.convert("RGB").resize((60, 40), RESAMPLING[preprocessing.interpolation])
    np.testing.assert_array_equal(pixels, np.asarray(resized)[4:36, 14:46].transpose(2, 0, 1))


def test_pictures_of_two_cameras_shrink_on_load_too() -> None:
    file = BytesIO()
    photo = Image.fromarray(data.coffee())
    photo.save(file, "MPO", save_all=True, append_images=[photo], quality=90)
    opened = Image.open(file)
    assert opened.format == "MPO"
    difference = np.abs(image_to_pixels(opened, COLOUR).astype(int) - image_to_pixels(photo, COLOUR))
    assert opened.size == (300, 200)
    assert difference.mean() < 4  # of JPEG itself


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_transparent_pixels_are_laid_on_black(alpha: int) -> None:
    pixels = image_to_pixels(Image.new("RGBA", (32, 32), (200, 100, 50, alpha)), COLOUR)
    assert pixels[:, 0, 0].tolist() == pytest.approx([200 * alpha / 255, 100 * alpha / 255, 50 * alpha / 255], abs=1)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="8 or 16 bits"):
        image_to_pixels(Image.new("F", (32, 32), 0.5), COLOUR)


@pytest.mark.parametrize("value", [65536, 2**31 - 1, -1])
def test_integers_of_more_than_16_bits_are_refused(value: int) -> None:
    """Neither white nor black is what they stand for."""
    pixels = np.full((32, 32), 7, np.int32)
    pixels[3, 4] = value
    low, high = sorted([7, value])
    with pytest.raises(ValueError, match=rf"integers from {low} to {high}, without a known range: send 8 or 16 bits"):
        image_to_pixels(Image.fromarray(pixels), COLOUR)


def test_every_tone_and_alpha_is_laid_on_black_as_compositing_does() -> None:
    levels = np.arange(256, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(levels[:, None], levels[::-1, None], levels[None], levels[None]), axis=-1)
    image = Image.fromarray(pixels)
    expected = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    result = image_to_pixels(image, same_size(3, 256, 256))
    np.testing.assert_array_equal(result, np.asarray(expected).transpose(2, 0, 1))


def test_palette_with_a_transparent_colour() -> None:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([250, 0, 0, 0, 250, 0])
    image.putpixel((16, 16), 1)
    assert image_to_pixels(image, same_size(3, 32, 32))[:, 0, 0].tolist() == [250, 0, 0]
    image.info["transparency"] = 0
    pixels = image_to_pixels(image, same_size(3, 32, 32))
    assert pixels[:, 0, 0].tolist() == [0, 0, 0]
    assert pixels[:, 16, 16].tolist() == [0, 250, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_the_camera_is_undone(orientation: int) -> None:
    upright = np.random.default_rng(1).integers(0, 256, (32, 32), dtype=np.uint8)
    # How the sensor saw it, by the definition of the EXIF tag.
    seen = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(seen))
    image.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(image_to_pixels(image, same_size(1, 32, 32))[0], upright)


def test_pixel_values_pass_through_unless_the_host_normalises() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    tensor = pixels_to_tensor(pixels, COLOUR)
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor, pixels)
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    normalising = COLOUR.model_copy(update={"normalisation": HostNormalisation(mean=mean, std=std)})
    expected = (pixels / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    tensor = pixels_to_tensor(pixels, normalising)
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor, expected, rtol=1e-5, atol=1e-6)
