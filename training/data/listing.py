"""A data set before its images are read: where they are, what they show, and which of them are held out."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray


class Sample(NamedTuple):
    """One image as its source has it."""

    name: str
    """Relative to the root of the listing: what lists of skipped images call it."""
    content: Path | bytes | NDArray[np.uint8]
    """A file, the bytes of one, or pixels H×W or H×W×C."""


@dataclass(frozen=True)
class Listing:
    """What is known without decoding an image."""

    name: str
    source: str
    """What was read, in words and without the folders of this machine."""
    root: Path
    samples: Iterable[Sample]
    """As many as labels, in their order; it may be walked once only."""
    labels: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    class_names: tuple[str, ...]
    mirrored: bool
    channels: Literal[1, 3] = 3
    side: int | None = None
    """Shorter side of all images; None where they have sizes of their own."""

    def called(self, name: str | None) -> Self:
        """The same under another name, if there is one."""
        return replace(self, name=name) if name else self
