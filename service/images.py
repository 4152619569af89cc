"""Bytes of an image → uint8 pixels, exactly as the manifest's pre-processing says."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from simplejpeg import decode_jpeg, decode_jpeg_header

from models.manifest import Preprocessing
from models.preprocessing import FORMATS, image_to_pixels, resized_size
from service.errors import ImageTooLargeError, UnusableImageError
from service.heads import JPEG, read_head

# What decoding costs, measured with JPEG and PNG on one core: to open, for each pixel decoded and each that resizing
# makes, and for each byte of the file.
SECONDS_TO_OPEN = 1e-4
SECONDS_A_PIXEL = 10e-9
SECONDS_A_BYTE = 20e-9
# Of files whose head does not tell it: enough to count as long.
SECONDS_UNKNOWN = 0.1
# A marker of JPEG that only EXIF and XMP have: both may say how to turn the image.
JPEG_APPLICATION = b"\xff\xe1"


class PixelBudget:
    """How many more pixels the images of one request may have."""

    def __init__(self, pixels: int) -> None:
        self.left = self.limit = pixels

    def take(self, size: tuple[int, int], preprocessing: Preprocessing) -> None:
        """Spend what an image needs before and after it is resized; raises `ImageTooLargeError` if it is not there."""
        width, height = size
        resized_width, resized_height = resized_size(size, preprocessing)
        needed, resized = width * height, resized_width * resized_height
        if needed > self.limit:
            raise ImageTooLargeError(
                f"the image has {width}×{height} pixels, more than {self.limit:,}: send a smaller one"
            )
        if resized > self.limit:
            raise ImageTooLargeError(
                f"the image of {width}×{height} pixels would have {resized_width}×{resized_height} after resizing, "
                f"more than {self.limit:,} pixels: send one that is less elongated"
            )
        if max(needed, resized) > self.left:
            raise ImageTooLargeError(
                f"the image has {width}×{height} pixels, and those before it leave {self.left:,} of the {self.limit:,} "
                "that one request may have: send it in another request, or smaller"
            )
        self.left -= max(needed, resized)


def decode(content: bytes, preprocessing: Preprocessing, budget: PixelBudget) -> NDArray[np.uint8]:
    """Decode an image and pre-process it to shape (channels, height, width); of an animation the first frame counts.

    Raises `UnusableImageError` when the bytes are not a whole image of a known format, `ImageTooLargeError` when it
    has, or would have after resizing, more pixels than are left; nothing larger than the result is decoded before that
    is known.
    """
    if not content:
        raise UnusableImageError(f"the image is empty: send the bytes of a file of format {', '.join(FORMATS)}")
    if (pixels := _decode_plain_jpeg(content, preprocessing)) is not None:
        budget.take((preprocessing.width, preprocessing.height), preprocessing)
        return pixels
    image = _open(content)
    with image:
        if min(image.size) < 1:
            raise UnusableImageError("the image has no pixels: send one with at least one")
        if image.mode == "F":
            raise UnusableImageError(
                "the pixels of the image are floating-point numbers without a known range: "
                "save it with 8 or 16 bits per channel"
            )
        budget.take(image.size, preprocessing)
        try:
            return image_to_pixels(image, preprocessing)
        # Pillow's decoders raise whatever their input provokes: OSError, SyntaxError, struct.error, IndexError, ...
        except Exception as error:
            raise UnusableImageError(
                f"the {image.format} image cannot be decoded ({error}): it is truncated or damaged; save it again"
            ) from error


def decode_cost(content: bytes, preprocessing: Preprocessing) -> float:
    """Estimate the seconds that decoding will take, in microseconds: nothing is decoded, nothing raised.

    a + b·(pixels + pixels after resizing) + c·bytes, for a plain JPEG or PNG; whatever is not plain counts as long, for
    a short file may hold a large image, or a small one that is much work.
    """
    head = read_head(content)
    if head is None:
        return SECONDS_UNKNOWN
    resized = 0
    if head.size != (preprocessing.resize, preprocessing.resize):
        width, height = resized_size(head.size, preprocessing)
        resized = width * height
    return SECONDS_TO_OPEN + SECONDS_A_PIXEL * (head.work + resized) + SECONDS_A_BYTE * len(content)


def _decode_plain_jpeg(content: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8] | None:
    """Decode a JPEG that has the size and the colours of the result; None for one that does not, or is damaged.

    The pixels are those that Pillow gives, for it has the same decoder, but takes seven times as long to reach it.
    """
    if not content.startswith(JPEG):
        return None
    result = (preprocessing.height, preprocessing.width)
    stored, wanted = ("Gray", "GRAY") if preprocessing.channels == 1 else ("YCbCr", "RGB")
    try:
        height, width, colours, _ = decode_jpeg_header(content)
        if (height, width) != result or preprocessing.resize != min(result) or colours != stored:
            return None
        if JPEG_APPLICATION in content:
            return None
        pixels_HWC = decode_jpeg(content, wanted)
    except ValueError:
        return None
    return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(f"the image is too large ({error}): send a smaller one") from error
    except Exception as error:
        raise UnusableImageError(
            f"these {len(content):,} bytes are not an image: send a whole file of format {', '.join(FORMATS)}"
        ) from error
