"""What decoding a JPEG costs: of a camera, with and without shrinking on load; a small one, with and without Pillow."""

import time
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image
from skimage import data

from benchmarks.pairing import interleave, paired_ratio
from models.manifest import Preprocessing
from models.preprocessing import image_to_pixels
from service.images import PixelBudget, decode

CAMERA = (4032, 3024)
# Levels of the noise of a sensor: without it an enlarged photograph is smoother than a camera's.
GRAIN = 6
# Photographs → the model that they are for, and how many rounds of how many.
CASES = (
    ("12 megapixels for 224×224", CAMERA, Preprocessing(channels=3, height=224, width=224, resize=256), 15, 1),
    ("12 megapixels for 32×32", CAMERA, Preprocessing(channels=3, height=32, width=32, resize=32), 15, 1),
    ("640×480 for 224×224", (640, 480), Preprocessing(channels=3, height=224, width=224, resize=256), 50, 5),
    ("32×32 for 32×32", (32, 32), Preprocessing(channels=3, height=32, width=32, resize=32), 100, 200),
)
Arm = Callable[[], float]


def decoding() -> list[dict[str, str]]:
    """One row a photograph: milliseconds of one thread's time, and what is left of them."""
    rows = []
    for name, size, preprocessing, rounds, repeats in CASES:
        content = photograph(size)
        arms = {
            "every pixel, Pillow": _arm(_by_pillow, content, preprocessing, repeats),
            "service": _arm(_by_service, content, preprocessing, repeats),
        }
        times = interleave(arms, rounds)
        row = {"photograph": name, "bytes": str(len(content))}
        row |= {f"{arm} ms": f"{np.median(values) * 1e3:.3f}" for arm, values in times.items()}
        row["service / Pillow"] = str(paired_ratio(times["service"], times["every pixel, Pillow"]))
        rows.append(row)
    return rows


def photograph(size: tuple[int, int]) -> bytes:
    """A cat with the grain of a camera, as a JPEG of quality 90."""
    cat = Image.fromarray(data.cat())  # type: ignore[no-untyped-call]
    enlarged = np.asarray(cat.resize(size, Image.Resampling.LANCZOS), np.float32)
    grain = np.random.default_rng(0).normal(0, GRAIN, enlarged.shape).astype(np.float32)
    file = BytesIO()
    Image.fromarray((enlarged + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _by_pillow(content: bytes, preprocessing: Preprocessing) -> None:
    image_to_pixels(Image.open(BytesIO(content)), preprocessing.model_copy(update={"shrink_on_load": False}))


def _by_service(content: bytes, preprocessing: Preprocessing) -> None:
    decode(content, preprocessing, PixelBudget(CAMERA[0] * CAMERA[1]))


def _arm(
    function: Callable[[bytes, Preprocessing], None], content: bytes, preprocessing: Preprocessing, repeats: int
) -> Arm:
    def run() -> float:
        began = time.thread_time()
        for _ in range(repeats):
            function(content, preprocessing)
        return (time.thread_time() - began) / repeats

    return run
