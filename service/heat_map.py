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
    scale = -(-SMALLEST_SIDE // max(pixels_CHW.shape[1:]))
    grey_HW = np.rint(pixels_CHW.mean(0)).repeat(max(scale, 1), 0).repeat(max(scale, 1), 1)
    largest = float(weights_HW.max()) or 1.0
    shares = Image.fromarray((weights_HW / largest).astype(np.float32))
    height, width = grey_HW.shape
    heat_HW = np.asarray(shares.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)[..., None] * STRONGEST
    mixed = grey_HW[..., None] * (1 - heat_HW) + np.array(HOT) * heat_HW
    file = BytesIO()
    Image.fromarray(np.rint(mixed).astype(np.uint8)).save(file, "PNG", compress_level=1)
    return file.getvalue()
