"""What published weights take: size and normalisation of images, as the field writes them."""

from dataclasses import dataclass
from typing import Literal

from models.manifest import Preprocessing

LARGEST = 255.0


@dataclass(frozen=True)
class Preset:
    """Mean and standard deviation of pixels in 0…1, by channel, and sizes of the shorter side."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    resize: int
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


PRESETS: dict[str, Preset] = {
    "imagenet": Preset((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), image_size=224, resize=256),
    "cifar10": Preset((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), image_size=32, resize=32),
}


@dataclass(frozen=True)
class InputConfig:
    """What the weights were trained on; what is given takes the place of that part of the preset."""

    preset: Literal["imagenet", "cifar10"] | None = None
    """`imagenet`: resized to 256 and cropped to 224, `cifar10`: 32, each with mean and deviation of its images."""
    mean: tuple[float, ...] | None = None
    """Of pixels in 0…1, one or one a channel."""
    std: tuple[float, ...] | None = None
    """Standard deviation of pixels in 0…1, one or one a channel."""
    image_size: int | None = None
    """Side of the square that is cropped from the centre."""
    resize: int | None = None
    """Shorter side before the crop; the image size if not given."""
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box"] | None = None
    """Of resizing; bilinear if not given."""
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for grey."""

    def __post_init__(self) -> None:
        mean, std = self._by_channel("mean"), self._by_channel("std")
        if not all(0 <= value <= 1 for value in mean):
            raise ValueError(f"--mean {_shown(mean)} is not allowed: give that of pixels in 0…1 (0…255 divided by 255)")
        if not all(0 < value <= 1 for value in std):
            raise ValueError(
                f"--std {_shown(std)} is not allowed: give that of pixels in 0…1, above 0 (0…255 divided by 255)"
            )
        size, resize = self._sizes()
        if not 8 <= size <= 1024:
            raise ValueError(f"--image-size {size} is not allowed: use 8 to 1024")
        if not size <= resize <= 2048:
            raise ValueError(f"--resize {resize} is not allowed: use {size}, the image size, to 2048")

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes pixels; the graph normalises them."""
        size, resize = self._sizes()
        preset = PRESETS.get(self.preset or "")
        interpolation = self.interpolation or (preset.interpolation if preset else "bilinear")
        return Preprocessing(
            channels=self.channels, height=size, width=size, resize=resize, interpolation=interpolation
        )

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation by channel in pixel values 0…255."""
        mean, std = self._by_channel("mean"), self._by_channel("std")
        return tuple(LARGEST * value for value in mean), tuple(LARGEST * value for value in std)

    def _by_channel(self, option: Literal["mean", "std"]) -> tuple[float, ...]:
        given: tuple[float, ...] | None = getattr(self, option)
        if given is None and self.preset:
            given = getattr(PRESETS[self.preset], option)
        if given is None:
            raise ValueError(f"--{option} is missing: give what the weights were trained with, or --preset")
        if len(given) == 1:
            given = given * self.channels
        if len(given) != self.channels:
            raise ValueError(f"--{option} {_shown(given)} has {len(given)} values for --channels {self.channels}")
        return given

    def _sizes(self) -> tuple[int, int]:
        """Of the crop, and of the shorter side before it."""
        preset = PRESETS.get(self.preset or "")
        size = preset.image_size if preset and self.image_size is None else self.image_size
        if size is None:
            raise ValueError("--image-size is missing: give that which the weights were trained for, or --preset")
        usual = preset.resize if preset and self.image_size is None else size
        return size, usual if self.resize is None else self.resize


def _shown(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
