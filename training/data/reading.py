"""Images of any source → pixels of both splits, by the one definition of pre-processing."""

import errno
import math
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.card import SkippedImage
from models.manifest import Preprocessing
from models.preprocessing import FORMATS, image_to_pixels, resized_size
from training.data.images import DataSet, LabelledImages, check_classes
from training.data.listing import Listing, Sample

IN_MEMORY_BYTES = 2 << 30
CHUNK = 256
"""Images that are decoded at a time: what is held beside the result."""
CHUNK_BYTES = 1 << 26
"""Of them as long as they are encoded; a single one may be larger."""
TASKS = 16
"""Of one chunk: small images take less time than a task does."""
MAX_PIXELS = 1 << 27
"""After resizing; of larger ones before it Pillow says no."""
SHOWN = 20
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""What the system says of a disk without room."""

Advance = Callable[[int, int], None]
"""Told (images read, images in all) as reading goes on."""


class _Decoded(NamedTuple):
    pixels: NDArray[np.uint8]
    size: tuple[int, int]


def read(
    listing: Listing,
    preprocessing: Preprocessing,
    skip_corrupt: int = 0,
    advance: Advance = lambda _done, _total: None,
    every_class: bool = True,
) -> DataSet:
    """Decode and pre-process the images of a listing, those that are held out and those that are not apart.

    Raises `ValueError` when more than `skip_corrupt` images cannot be read, naming them, when there is no room for the
    pixels, and, with `every_class`, when a class has no image in a split.
    """
    if every_class:
        _check_splits(listing, listing.labels, listing.held_out)
    count, held_out_count = len(listing.labels), int(listing.held_out.sum())
    shape = (preprocessing.channels, preprocessing.height, preprocessing.width)
    training, held_out = (allocate((images, *shape)) for images in (count - held_out_count, held_out_count))
    sizes = np.empty((count, 2), np.int32)
    kept = np.zeros(count, np.bool_)
    filled = [0, 0]
    skipped: list[SkippedImage] = []
    with warnings.catch_warnings():
        # Of images that Pillow finds large and still reads.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for index, (sample, result) in enumerate(_decode(listing.samples, preprocessing)):
            if isinstance(result, str):
                skipped.append(SkippedImage(image=sample.name, reason=result))
                if len(skipped) > skip_corrupt + SHOWN:
                    break
            else:
                which = int(listing.held_out[index])
                (training, held_out)[which][filled[which]] = result.pixels
                filled[which] += 1
                sizes[index] = result.size
                kept[index] = True
            advance(index + 1, count)
    if len(skipped) > skip_corrupt:
        raise ValueError(_too_many(listing.root, skipped, skip_corrupt))
    if every_class and skipped:
        _check_splits(listing, listing.labels[kept], listing.held_out[kept], len(skipped))
    return DataSet(
        name=listing.name,
        training=LabelledImages(training[: filled[0]], listing.labels[kept & ~listing.held_out]),
        held_out=LabelledImages(held_out[: filled[1]], listing.labels[kept & listing.held_out]),
        class_names=listing.class_names,
        preprocessing=preprocessing,
        mirrored=listing.mirrored,
        source=listing.source,
        sizes=sizes[kept],
        skipped=tuple(skipped),
    )


def allocate(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory for small sets; an unnamed temporary file that the system pages in and out for large ones.

    Raises `ValueError` where the disk has no room for the file: writing to it would end the process later.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if size <= IN_MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        try:
            reserve(file.fileno(), size)
        except OSError as error:
            raise ValueError(
                f"the pixels need a temporary file of {size:,} bytes, for which {tempfile.gettempdir()} has no room "
                f"({error.strerror}): set TMPDIR to a larger disk, or give a smaller --image-size"
            ) from error
        return np.memmap(file, np.uint8, mode="r+", shape=shape)


def reserve(file: int, size: int) -> None:
    """Take `size` bytes of the disk for an open file; raises `OSError` where they are not there."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    if shutil.disk_usage(tempfile.gettempdir()).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.truncate(file, size)


def _check_splits(listing: Listing, labels: NDArray[np.int64], held_out: NDArray[np.bool_], skipped: int = 0) -> None:
    without = f", without the {skipped} that cannot be read," if skipped else ""
    for part, where in ((~held_out, "the training split"), (held_out, "the held-out split")):
        check_classes(listing.class_names, labels[part], f"{where} of {listing.root}{without}")


def _decode(samples: Iterable[Sample], preprocessing: Preprocessing) -> Iterator[tuple[Sample, _Decoded | str]]:
    """Each sample with its pixels, or with the reason that there are none; a chunk at a time, on all cores."""
    left = iter(samples)
    with ThreadPoolExecutor() as pool:
        while chunk := _chunk(left):
            each = math.ceil(len(chunk) / TASKS)
            groups = [chunk[start : start + each] for start in range(0, len(chunk), each)]
            for done in pool.map(lambda group: [(sample, _attempt(sample, preprocessing)) for sample in group], groups):
                yield from done


def _chunk(samples: Iterator[Sample]) -> list[Sample]:
    """The next ones: as many as may be held."""
    chunk, size = [], 0
    for sample in samples:
        chunk.append(sample)
        size += _held(sample)
        if len(chunk) == CHUNK or size >= CHUNK_BYTES:
            break
    return chunk


def _held(sample: Sample) -> int:
    """Bytes in memory."""
    content = sample.content
    if isinstance(content, Path):
        return 0
    return content.nbytes if isinstance(content, np.ndarray) else len(content)


def _attempt(sample: Sample, preprocessing: Preprocessing) -> _Decoded | str:
    if isinstance(sample.content, np.ndarray) and (done := _finished(sample.content, preprocessing)):
        return done
    try:
        with _open(sample) as image:
            size = image.size
            width, height = resized_size(size, preprocessing)
            if width * height > MAX_PIXELS:
                raise ValueError(
                    f"{size[0]}×{size[1]} pixels would have {width}×{height} after resizing: too elongated"
                )
            return _Decoded(image_to_pixels(image, preprocessing), size)
    except UnidentifiedImageError:
        return f"it is no whole file of format {', '.join(FORMATS)}"
    # Pillow's decoders raise whatever their input provokes: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as error:
        said = error.strerror if isinstance(error, OSError) else None
        return said or str(error) or type(error).__name__


def _finished(image: NDArray[np.uint8], preprocessing: Preprocessing) -> _Decoded | None:
    """Pixels that pre-processing would leave as they are, without a way there and back; None for all others."""
    grey = preprocessing.channels == 1
    height, width = preprocessing.height, preprocessing.width
    if image.shape != ((height, width) if grey else (height, width, 3)) or preprocessing.resize != min(height, width):
        return None
    return _Decoded(image[None] if grey else image.transpose(2, 0, 1), (width, height))


def _open(sample: Sample) -> Image.Image:
    content = sample.content
    if isinstance(content, np.ndarray):
        return Image.fromarray(np.ascontiguousarray(content))
    if isinstance(content, Path):
        # Of a pipe the first byte may never come.
        if not stat.S_ISREG(content.stat().st_mode):
            raise ValueError("it is no regular file")
        return Image.open(content, formats=FORMATS)
    if not content:
        raise ValueError("it has no bytes")
    return Image.open(BytesIO(content), formats=FORMATS)


def _too_many(root: Path, skipped: Sequence[SkippedImage], allowed: int) -> str:
    first, *others = skipped
    if not others:
        return (
            f"{root / first.image} cannot be read as an image ({first.reason}): mend or remove it, "
            "or leave it out with --skip-corrupt 1"
        )
    stopped = len(skipped) > allowed + SHOWN
    shown = "".join(f"\n  {each.image}: {each.reason}" for each in skipped[:SHOWN])
    count = f"at least {len(skipped)}" if stopped else str(len(skipped))
    return (
        f"{count} images of {root} cannot be read, and --skip-corrupt allows {allowed}: mend or remove them, or allow "
        f"as many{shown}" + ("\n  …" if len(skipped) > SHOWN else "")
    )
