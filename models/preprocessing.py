"""One definition of pre-processing, used by evaluation, baselines and the service alike."""

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from models.manifest import Preprocessing

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
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
    Raises ValueError for an image of floating-point numbers.
    """
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
        image = Image.fromarray((np.asarray(image, np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # Pasting on RGB makes one copy, and the very pixels that compositing with an opaque backdrop makes in four.
        transparent = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", image.size)
        image.paste(transparent, mask=transparent)
    return image if image.mode == mode else image.convert(mode)
