"""The manifest of a published model: everything a server needs to know beside the graph itself."""

from collections import Counter
from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, FiniteFloat, model_validator

from models.card import DataCard
from models.part import Part, Sha256

SCHEMA_VERSION: Final = 1
ATTENTION: Final = "attention"
"""The output that says how much each position of the last feature maps counted, N×H×W; in every image they sum to 1."""


def plain_name(name: str) -> str:
    """A name that can only ever be one path component: letters, digits, `.`, `_`, `-`, first a letter or digit."""
    if not name[:1].isalnum() or not all(c.isascii() and (c.isalnum() or c in "._-") for c in name):
        raise ValueError(
            f"name {name!r} is not allowed: use letters, digits, '.', '_' and '-', starting with a letter or digit"
        )
    if len(name) > 128:
        raise ValueError(f"name of {len(name)} characters is not allowed: use at most 128")
    return name


PlainName = Annotated[str, AfterValidator(plain_name)]


class TensorSpec(Part):
    """One input or output of the graph, in the vocabulary of the Open Inference Protocol."""

    name: str
    datatype: Literal["FP16", "FP32", "UINT8"]
    shape: tuple[int, ...]
    """Sizes in order; -1 is a dynamic size (the batch)."""


class HostNormalisation(Part):
    """Normalisation that the graph does not contain: `(pixels / 255 − mean) / std`, per channel."""

    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]


class Preprocessing(Part):
    """How an image becomes one input tensor of shape (channels, height, width), values 0…255.

    The image is turned upright by its EXIF orientation, converted to RGB or grey, resized so that its shorter side is
    `resize` (its aspect ratio kept), and cropped at the centre to `height` × `width`. The result is uint8.
    """

    channels: Literal[1, 3]
    height: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]
    resize: Annotated[int, Field(ge=1, le=8192)]
    """Length of the shorter side after resizing; at least max(height, width)."""
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    shrink_on_load: bool = True
    """Whether a JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves 2.9 times the resized width and height, unless the
    interpolation is `box`: faster, and on photographs within 16 levels of 255, and 1 in the mean. False: never."""
    normalisation: HostNormalisation | None = None
    """None when the graph normalises pixel values itself, as every graph exported by this project does."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize < max(self.height, self.width):
            raise ValueError(
                f"resize={self.resize} is smaller than the crop {self.height}×{self.width}: use its longer side or more"
            )
        return self

    @model_validator(mode="after")
    def _normalises_every_channel(self) -> Self:
        if (given := self.normalisation) is None:
            return self
        if not len(given.mean) == len(given.std) == self.channels:
            raise ValueError(
                f"normalisation has {len(given.mean)} means and {len(given.std)} stds for {self.channels} channels"
            )
        return self


class Saturation(Part):
    """Where an activation's *output* shows saturation: y ≤ `below` or y ≥ `above`. Neither: it never saturates."""

    below: float | None = None
    above: float | None = None


class ActivationSite(Part):
    """One activation of the network and the tensor that leaves it."""

    name: str
    """Module path in the network, e.g. `layer1.0.act1`."""
    activation: str
    """Catalogue key, e.g. `mish`."""
    tensor: str
    channels: Annotated[int, Field(ge=1)]
    signed: bool
    """Whether the output can be negative; the minimum is only measured where it can."""
    saturation: Saturation | None
    """None when saturation cannot be told from the output (x·σ(x) comes back to 0 from both sides)."""
    output_range: tuple[FiniteFloat | None, FiniteFloat | None] | None = None
    """Infimum and supremum of the output, None where it is unbounded; None as a whole when it is not known."""
    zero_is_dead: bool | None = None
    """Whether a channel of nothing but zeros has no gradient either; None when it is not known."""
    normal_mean: FiniteFloat | None = None
    """Mean of the output for inputs from N(0, 1); None when there is no such number."""
    normal_variance: Annotated[FiniteFloat, Field(ge=0)] | None = None
    """Variance of the output for inputs from N(0, 1)."""
    datatype: Literal["FP16", "FP32"] = "FP32"
    """Of the tensor, in which the largest activation must have room."""

    @property
    def expected_mean_shift(self) -> float | None:
        """(E f)² / E f² for inputs from N(0, 1): a healthy layer's, 1/π for ReLU; None when it is not known."""
        if self.normal_mean is None or self.normal_variance is None:
            return None
        square = self.normal_mean**2 + self.normal_variance
        return self.normal_mean**2 / square if square else None


class BlockEnd(Part):
    """The end of one residual block: what the shortcut brought and what left the block."""

    name: str
    """Module path of the block, e.g. `layer1.0`."""
    output: str
    shortcut: str


class Metrics(Part):
    """What held-out images said about the exported graph."""

    images: Annotated[int, Field(ge=1)]
    accuracy: Annotated[float, Field(ge=0, le=1)]
    loss: float
    """Mean cross-entropy in nats."""
    data: str
    """What the images are, in words: 'CIFAR-10 (JPEG q75), test'."""


class HalfPrecision(Part):
    """The same network in float16, for devices that are faster with it; its inputs and outputs stay float32."""

    graph: Literal["model.fp16.onnx"] = "model.fp16.onnx"
    tolerance: Annotated[FiniteFloat, Field(gt=0)]
    """Bound on |logit − logit of the graph in single precision|, relative to the largest |logit| of held-out images."""
    difference: Annotated[FiniteFloat, Field(ge=0)]
    """The largest that was found."""
    metrics: Metrics


class TrainingRecord(Part):
    """How the weights came to be: enough to judge the model and to train it again."""

    network: str
    activation: str
    activation_parameters: dict[str, float] = Field(default_factory=dict)
    """Parameters of the activation that were not at their default."""
    arrangement: str
    parameters: int
    data: str
    training_images: int
    epochs: int
    batch_size: int
    seed: int
    optimiser: str
    options: dict[str, str | int | float | bool | None]
    seconds: float
    device: str
    versions: dict[str, str]


class Origin(Part):
    """Where weights came from that were not trained here."""

    file: str
    """Its name, without folders."""
    sha256: Sha256
    entry: str
    """Keys that led to the weights inside the file, joined by dots; empty where it held nothing else."""
    architecture: str
    activation: str
    activation_parameters: dict[str, float] = Field(default_factory=dict)
    """Parameters of the activation that were not at their default."""
    arrangement: str
    shortcut: str = "identity"
    shortcut_parameters: dict[str, float] = Field(default_factory=dict)
    """Parameters of the shortcut that were not at their default."""
    normaliser: str = "batch"
    head: str = "linear"
    parameters: int


class ModelManifest(Part):
    """The whole manifest, stored as `manifest.json` beside the files it names."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: PlainName
    version: Annotated[int, Field(ge=1)]
    created: datetime
    description: str
    graph: Literal["model.onnx"] = "model.onnx"
    baseline: Literal["baseline.npz"] | None = "baseline.npz"
    digests: dict[str, Sha256]
    """SHA-256 of every file of the bundle except the manifest itself."""
    inputs: tuple[TensorSpec]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    """The logits first; beside them `attention` alone is known."""
    class_names: Annotated[tuple[str, ...], Field(min_length=2)]
    preprocessing: Preprocessing
    sites: Annotated[tuple[ActivationSite, ...], Field(min_length=1)]
    blocks: tuple[BlockEnd, ...]
    metrics: Metrics | None
    training: TrainingRecord | None
    origin: Origin | None = None
    """Where the weights came from, if they were imported; None of those that were trained here."""
    sample: Literal["sample.npz"] | None = None
    """Images and the logits that they must give wherever the model is loaded; None in bundles without them."""
    half: HalfPrecision | None = None
    """None when there is no graph in half precision."""
    data_card: DataCard | None = None
    """None of models whose images are not known, or that were published before there were cards."""

    @model_validator(mode="after")
    def _files_have_digests(self) -> Self:
        files = (self.graph, self.baseline, self.sample, self.half and self.half.graph)
        expected = {file for file in files if file}
        if set(self.digests) != expected:
            raise ValueError(f"digests name {sorted(self.digests)}, expected {sorted(expected)}")
        return self

    @property
    def logits(self) -> TensorSpec:
        return self.outputs[0]

    @property
    def attention(self) -> TensorSpec | None:
        """None for a model without attention."""
        return next((spec for spec in self.outputs[1:] if spec.name == ATTENTION), None)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for role, parts in (("output", self.outputs), ("site", self.sites), ("block", self.blocks)):
            repeated = [name for name, count in Counter(part.name for part in parts).items() if count > 1]
            if repeated:
                raise ValueError(f"{role} names occur more than once: {', '.join(repeated)}")
        return self
