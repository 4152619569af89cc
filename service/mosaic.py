"""Numbers → a picture."""

import math
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# A channel of 4×4 positions would be too small to see.
SMALLEST_TILE = 32
GAP = 1
RED = (220, 40, 40)
PAPER = (255, 255, 255)


def mosaic(values_CHW: NDArray[np.float32]) -> bytes:
    """A PNG with one tile a channel, row by row, in as many rows as columns or one less.

    Grey goes from black at the least finite value of all channels to white at the greatest; red is not finite.
    """
    channels, height, width = values_CHW.shape
    scale = max(1, -(-SMALLEST_TILE // max(height, width)))
    tiles = _colours(values_CHW).repeat(scale, 1).repeat(scale, 2)
    columns = math.ceil(math.sqrt(channels))
    rows = -(-channels // columns)
    tile_height, tile_width = height * scale + GAP, width * scale + GAP
    canvas = np.full((rows * tile_height - GAP, columns * tile_width - GAP, 3), PAPER, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * tile_height, index % columns * tile_width
        canvas[top : top + height * scale, left : left + width * scale] = tile
    file = BytesIO()
    Image.fromarray(canvas).save(file, "PNG")
    return file.getvalue()


def _colours(values_CHW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """channels × height × width × RGB"""
    finite = np.isfinite(values_CHW)
    known = values_CHW[finite].astype(np.float64)
    least, greatest = (known.min(), known.max()) if known.size else (0.0, 0.0)
    span = greatest - least or 1.0
    grey = np.rint((np.where(finite, values_CHW, least) - least) / span * 255).astype(np.uint8)
    return np.where(finite[..., None], grey[..., None], np.array(RED, np.uint8))
