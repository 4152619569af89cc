"""A few images and the logits that they must give, published with a model and checked wherever it is loaded.

The digests say that the bytes are those that were published; the sample says that this machine computes with them what
was computed then: another build of ONNX Runtime, other kernels, a graph optimisation that is wrong.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.manifest import Preprocessing
from models.statistics.archive import pack, unpack

SAMPLE = "sample.npz"
IMAGES = 4
# Of the coarse half of the images, the side of what has one colour.
PATCH = 8


@dataclass(frozen=True)
class ParitySample:
    """Pixels N×C×H×W and logits N×K."""

    pixels: NDArray[np.uint8]
    logits: NDArray[np.float32]
    agreeing: int = IMAGES
    """So many images must give their logits: half where the activation steps, and rounding may take the step."""

    def to_bytes(self) -> bytes:
        return pack({"pixels": self.pixels, "logits": self.logits, "agreeing": np.asarray(self.agreeing)})

    @classmethod
    def from_bytes(cls, content: bytes, preprocessing: Preprocessing, classes: int) -> Self:
        """Raises `ValueError` where it is none, or of a model with another input or output."""
        arrays = unpack(content, SAMPLE)
        pixels, logits, agreeing = (arrays.get(name) for name in ("pixels", "logits", "agreeing"))
        if pixels is None or logits is None or agreeing is None or agreeing.shape or agreeing.dtype.kind != "i":
            raise ValueError(f"{SAMPLE} has no pixels, logits and number of images that agree")
        count = len(pixels) if pixels.ndim else 0
        expected = (preprocessing.channels, preprocessing.height, preprocessing.width)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != expected or not 1 <= int(agreeing) <= count <= 64:
            raise ValueError(f"{SAMPLE} has {pixels.dtype} images {pixels.shape}, expected 1 to 64 of uint8 {expected}")
        if logits.dtype != np.float32 or logits.shape != (count, classes) or not np.isfinite(logits).all():
            raise ValueError(f"{SAMPLE} has logits {logits.shape}, expected {(count, classes)} finite float32")
        return cls(pixels, logits, int(agreeing))

    def check(self, logits: NDArray[np.float32], bound: float) -> None:
        """Raise `ValueError` where max |logit − its own| > bound · (1 + max |its own|) for too many images."""
        difference = np.abs(logits.astype(np.float64) - self.logits).max(1)
        allowed = bound * (1 + float(np.abs(self.logits).max()))
        worst = np.sort(difference)[self.agreeing - 1]
        # What is not a number is at the end of what is sorted.
        if not worst <= allowed:
            raise ValueError(
                f"the logits of its parity sample differ by {worst:g} from those it was published with, at most "
                f"{allowed:g} is allowed: this machine computes something else than the model"
            )


def sample_pixels(preprocessing: Preprocessing, count: int = IMAGES) -> NDArray[np.uint8]:
    """Images of nobody: the first half noise, the others patches of one colour; the same for the same size."""
    random = np.random.default_rng(0)
    height, width = preprocessing.height, preprocessing.width
    fine = random.integers(0, 256, (count - count // 2, preprocessing.channels, height, width), np.uint8)
    patches = random.integers(
        0, 256, (count // 2, preprocessing.channels, -(-height // PATCH), -(-width // PATCH)), np.uint8
    )
    coarse = patches.repeat(PATCH, 2).repeat(PATCH, 3)[:, :, :height, :width]
    return np.concatenate([fine, coarse])
