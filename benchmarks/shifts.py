"""Images that a model was not made for: known ones changed, and others altogether. All are uint8, N×C×H×W."""

import io
from collections.abc import Callable

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.data import digits

Pixels = NDArray[np.uint8]

PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "rocket")
GREY = 127


def blurred(radius: float) -> Callable[[Pixels], Pixels]:
    """Gaussian blur of this standard deviation, in pixels."""
    return lambda pixels: _each(pixels, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


def noisy(sigma: float) -> Callable[[Pixels], Pixels]:
    """White noise of this standard deviation, of 255."""

    def change(pixels: Pixels) -> Pixels:
        noise = np.random.default_rng(0).normal(0, sigma, pixels.shape)
        return (pixels + noise).round().clip(0, 255).astype(np.uint8)

    return change


def rotated(degrees: float) -> Callable[[Pixels], Pixels]:
    """Turned about the centre; the corners that come in are grey."""
    grey = (GREY, GREY, GREY)
    return lambda pixels: _each(pixels, lambda image: image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=grey))


def contrasted(factor: float) -> Callable[[Pixels], Pixels]:
    """Every value moved to `factor` times its distance from grey."""
    return lambda pixels: (GREY + factor * (pixels.astype(np.float64) - GREY)).round().clip(0, 255).astype(np.uint8)


def compressed(quality: int) -> Callable[[Pixels], Pixels]:
    """Saved as JPEG of this quality and read again."""

    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return lambda pixels: _each(pixels, change)


SHIFTS: dict[str, Callable[[Pixels], Pixels]] = {
    "blur, σ = 0.7 px": blurred(0.7),
    "blur, σ = 1.5 px": blurred(1.5),
    "noise, σ = 10": noisy(10),
    "noise, σ = 30": noisy(30),
    "rotated by 45°": rotated(45),
    "rotated by 90°": rotated(90),
    "contrast × 0.5": contrasted(0.5),
    "contrast × 0.2": contrasted(0.2),
    "JPEG quality 30": compressed(30),
    "JPEG quality 10": compressed(10),
}


def photographs(count: int, size: int, channels: int) -> Pixels:
    """Random square patches of the photographs that ship with scikit-image."""
    random = np.random.default_rng(0)
    patches = []
    for number in range(count):
        photograph = getattr(skimage.data, PHOTOGRAPHS[number % len(PHOTOGRAPHS)])()
        image = Image.fromarray(photograph).convert("L" if channels == 1 else "RGB")
        left, top = (int(random.integers(0, side - size + 1)) for side in image.size)
        patch = np.asarray(image.crop((left, top, left + size, top + size)))
        patches.append(patch.reshape(size, size, channels).transpose(2, 0, 1))
    return np.array(patches)


def enlarged_digits(count: int, size: int) -> Pixels:
    """Handwritten digits, enlarged, in three equal channels."""
    known = digits.load().training.pixels[:count, 0]
    images = [Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR) for pixels in known]
    return np.array([np.asarray(image.convert("RGB")).transpose(2, 0, 1) for image in images])


def _each(pixels: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    images = (change(Image.fromarray(image.transpose(1, 2, 0))) for image in pixels)
    return np.array([np.asarray(image).transpose(2, 0, 1) for image in images])
