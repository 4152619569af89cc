"""Bytes of an image → uint8 pixels, exactly as the manifest's pre-processing says."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.manifest import Preprocessing
from models.preprocessing import image_to_pixels, resized_size
from service.errors import ImageTooLargeError, UnusableImageError

# Each decoder is a piece of C that reads hostile bytes: only the formats that photographs come in.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def decode(content: bytes, preprocessing: Preprocessing, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an image and pre-process it to shape (channels, height, width); of an animation the first frame counts.

    Raises `UnusableImageError` when the bytes are not a whole image of a known format, `ImageTooLargeError` when it
    has, or would have after resizing, more than `max_pixels`; nothing is decoded before that is known.
    """
    if not content:
        raise UnusableImageError(f"the image is empty: send the bytes of a file of format {', '.join(FORMATS)}")
    image = _open(content)
    with image:
        _check_size(image.size, preprocessing, max_pixels)
        try:
            return image_to_pixels(image, preprocessing)
        # Pillow's decoders raise whatever their input provokes: OSError, SyntaxError, struct.error, IndexError, ...
        except Exception as error:
            raise UnusableImageError(
                f"the {image.format} image cannot be decoded ({error}): it is truncated or damaged; save it again"
            ) from error


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(f"the image is too large ({error}): send a smaller one") from error
    except Exception as error:
        raise UnusableImageError(
            f"these {len(content):,} bytes are not an image: send a whole file of format {', '.join(FORMATS)}"
        ) from error


def _check_size(size: tuple[int, int], preprocessing: Preprocessing, max_pixels: int) -> None:
    width, height = size
    if min(size) < 1:
        raise UnusableImageError(f"the image has {width}×{height} pixels: send one with at least one pixel")
    if width * height > max_pixels:
        raise ImageTooLargeError(f"the image has {width}×{height} pixels, more than {max_pixels:,}: send a smaller one")
    resized_width, resized_height = resized_size(size, preprocessing)
    if resized_width * resized_height > max_pixels:
        raise ImageTooLargeError(
            f"the image of {width}×{height} pixels would have {resized_width}×{resized_height} after resizing, "
            f"more than {max_pixels:,} pixels: send one that is less elongated"
        )
