"""The data card of a model: which images it was trained and measured on, and how many of each class."""

from pydantic import FiniteFloat

from models.part import Part, Sha256


class SizeSpread(Part):
    """A length in pixels over all images."""

    minimum: int
    median: float
    maximum: int


class ClassCount(Part):
    """Images of one class."""

    name: str
    training: int
    held_out: int
    weight: float | None = None
    """Factor of the loss; None where all classes count alike."""


class SkippedImage(Part):
    """An image that could not be read."""

    image: str
    """File or row, without the folders that the data lay in."""
    reason: str


class DataCard(Part):
    """What a model was trained on and measured on."""

    name: str
    source: str
    """What was read, in words."""
    digest: Sha256
    """SHA-256 over class names, labels and pixels of both splits."""
    training_images: int
    held_out_images: int
    classes: tuple[ClassCount, ...]
    widths: SizeSpread | None
    """As the images were found; None where that is not known."""
    heights: SizeSpread | None
    channel_means: tuple[FiniteFloat, ...]
    """0…255, of the training images as the network gets them; of held-out ones where there are no others."""
    channel_deviations: tuple[FiniteFloat, ...]
    skipped_images: int
    skipped: tuple[SkippedImage, ...]
    """The first hundred."""
