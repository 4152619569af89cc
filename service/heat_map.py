"""How much each part of an image counted → a picture of it."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Of the longer side: an image of 8×8 pixels would be too small to see.
SMALLEST_SIDE = 224
HOT = (230, 30, 30)
# How much of the colour there is where the weight is largest; the rest shows the image.
STRONGEST = 0.75


def heat_map(weights_HW: NDArray[np.float32], pixels_CHW: NDArray[np.uint8]) -> bytes:
    """A PNG: the image in grey, redder the more a place counts, by weight / largest weight.

    The image is as the network saw it, in whole multiples of its size. Between the centres of two positions the weight
    changes evenly.
    """
    _, height, width = pixels_CHW.shape
    scale = max(1, -(-SMALLEST_SIDE // max(height, width)))
    size = (width * scale, height * scale)
    pixels_HWC = pixels_CHW.transpose(1, 2, 0)
    image = Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[2] == 1 else np.ascontiguousarray(pixels_HWC))
    grey = image.convert("L").resize(size, Image.Resampling.NEAREST).convert("RGB")
    shares = Image.fromarray((weights_HW * (STRONGEST * 255 / weights_HW.max())).astype(np.float32))
    heat = shares.resize(size, Image.Resampling.BILINEAR).convert("L")
    file = BytesIO()
    Image.composite(Image.new("RGB", size, HOT), grey, heat).save(file, "PNG", compress_level=1)
    return file.getvalue()
