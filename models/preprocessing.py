"""One definition of pre-processing, used by evaluation, baselines and the service alike."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from models.manifest import Preprocessing

# Each decoder is a piece of C that reads hostile bytes: only the formats that photographs come in.
# Imported here: at the first image Pillow would import the decoders of all formats that it knows.
FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
    )
)
RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
# Pixels of a side that a JPEG decoded at less than its size keeps for each one that resizing leaves: the most at which
# a photograph of 12 megapixels is decoded at 1/4 for a side of 256. Measured where each just applies, the mean error is
# at worst 1.7 levels of 255 at 2, 0.8 at 2.5, 0.6 at 2.9 and 0.5 at 4.
SHRINK_MARGIN = 2.9
# How to undo each EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def image_to_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Turn a decoded image into uint8 pixels of shape (channels, height, width), as `Preprocessing` defines.

    Transparent pixels are laid on black, 16-bit images are scaled to 8 bits, of an animation the first frame counts.
    A JPEG can only shrink on load if it was opened, but not loaded. Raises ValueError for an image of floating-point
    numbers, and of integers that have more than 16 bits.
    """
    if preprocessing.shrink_on_load:
        image = _shrunk(image, preprocessing)
    image = _to_mode(_upright(image), "L" if preprocessing.channels == 1 else "RGB")
    size = resized_size(image.size, preprocessing)
    if size != image.size:
        image = image.resize(size, RESAMPLING[preprocessing.interpolation])
    left = (image.width - preprocessing.width) // 2
    top = (image.height - preprocessing.height) // 2
    image = image.crop((left, top, left + preprocessing.width, top + preprocessing.height))
    pixels_HWC = np.asarray(image).reshape(preprocessing.height, preprocessing.width, preprocessing.channels)
    return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))


def resized_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height of an image of `size` once its shorter side is `resize`: what an elongated image blows up to."""
    scale = preprocessing.resize / min(size)
    width, height = (max(preprocessing.resize, round(side * scale)) for side in size)
    return width, height


def pixels_to_tensor(pixels_NCHW: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Turn uint8 pixels into the graph's float32 input, normalised only if the graph does not do it itself."""
    tensor = pixels_NCHW.astype(np.float32)
    if preprocessing.normalisation is None:
        return tensor
    mean = np.asarray(preprocessing.normalisation.mean, np.float32).reshape(1, -1, 1, 1)
    std = np.asarray(preprocessing.normalisation.std, np.float32).reshape(1, -1, 1, 1)
    normalised: NDArray[np.float32] = (tensor / np.float32(255) - mean) / std
    return normalised


def tensor_to_pixels(tensor_NCHW: NDArray[np.float32], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Turn the graph's input back into the pixels that it was made of: what `pixels_to_tensor` is the inverse of."""
    if preprocessing.normalisation is not None:
        mean = np.asarray(preprocessing.normalisation.mean, np.float32).reshape(1, -1, 1, 1)
        std = np.asarray(preprocessing.normalisation.std, np.float32).reshape(1, -1, 1, 1)
        tensor_NCHW = (tensor_NCHW * std + mean) * np.float32(255)
    return np.rint(tensor_NCHW).clip(0, 255).astype(np.uint8)


def _shrunk(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Decode a JPEG at 1/2, 1/4 or 1/8 if `SHRINK_MARGIN` allows, and resize it; anything else stays as it is.

    It is resized before it is turned, because the last row and column of the smaller one may stand for a part of a
    pixel, and resizing has to know which they are. Not with a box filter, which has no slope at its edges: a pixel is
    in or out, and the error reaches 5 levels in the mean.
    """
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L") or preprocessing.interpolation == "box":
        return image
    whole = image.size
    size = resized_size(whole, preprocessing)
    width, height = (math.ceil(SHRINK_MARGIN * side) for side in size)
    drafted = image.draft(None, (width, height))
    if drafted is None or image.size == whole:
        return image
    return image.resize(size, RESAMPLING[preprocessing.interpolation], box=drafted[1])


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # a PNG may say its orientation behind its pixels
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Damaged EXIF says nothing about the pixels, and provokes whatever it does: SyntaxError, struct.error, ...
    except Exception:
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range: send 8 or 16 bits per channel")
    if image.mode.startswith("I"):
        # 16-bit greyscale: keep the high byte. Pillow's own conversion clips everything above 255 to white.
        values = np.asarray(image)
        if not 0 <= values.min() <= values.max() <= 0xFFFF:
            raise ValueError(
                f"its pixels are integers from {values.min()} to {values.max()}, without a known range: "
                "send 8 or 16 bits per channel"
            )
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # Pasting on RGB makes one copy, and the very pixels that compositing with an opaque backdrop makes in four.
        transparent = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", image.size)
        image.paste(transparent, mask=transparent)
    return image if image.mode == mode else image.convert(mode)
