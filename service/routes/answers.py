"""The answers of the `/v1` paths, as documented in `/docs`."""

from models.manifest import ModelManifest, Saturation, TensorSpec
from models.statistics.layers import ImageStatistics
from service.monitor.answers import Answer, Of


class Error(Answer):
    """Every answer whose status is not 200."""

    error: str
    """What was wrong, what was expected, and what to do."""


class RankedClass(Answer):
    label: str
    index: int
    probability: float


class Certainty(Answer):
    """How sure the network is of its prediction."""

    entropy: float
    """−Σ p ln p, in nats."""
    margin: float
    """p of the first class less p of the second."""
    energy: float
    """−ln Σ exp(logit)"""


class Outlier(Answer):
    """How unlike the images that the network knows this one is, as p-values against held-out images.

    A p of 0.01 or less is as unusual as one held-out image in a hundred.
    """

    p: float
    """Of all layers together."""
    layers: dict[str, float]
    """Of the channel means of each layer."""
    head: dict[str, float]
    """Of scores of the logits and the last features: energy, and for a linear head ReAct energy and Mahalanobis."""
    calibrated_with: int
    """Held-out images: no p is smaller than 1/(this + 1)."""


class Attention(Answer):
    """How much each position of the last feature maps counted for one image."""

    height: int
    width: int
    weights: list[list[float]]
    """height × width; together they sum to 1"""
    heat_map: str
    """The image as the network saw it, in grey, redder the more a place counts: a PNG as a `data:` URL."""


class ClassifiedImage(Answer):
    file: str | None
    """Name of the uploaded file, if it came with one."""
    classes: list[RankedClass]
    """Most probable first."""
    statistics: ImageStatistics | None
    """Null unless `statistics` was `layers` or `channels`."""
    prediction: Certainty | None
    """As above."""
    outlier: Outlier | None
    """As above; null as well for a model without a baseline."""
    attention: Attention | None = None
    """Null unless `attention` was asked for."""


class FailedImage(Answer):
    file: str | None
    error: str


class Timing(Answer):
    """Milliseconds for all images of the request together."""

    decode_ms: float
    inference_ms: float


class Classification(Answer):
    model: str
    version: int
    provider: str
    """The ONNX Runtime execution provider that ran the model."""
    images: list[ClassifiedImage | FailedImage]
    """In the order of the request; an image that cannot be used fails alone."""
    timing: Timing


class VersionState(Answer):
    version: int
    loaded: bool
    reason: str
    """Why this version cannot be served; empty if nothing is known against it."""


class ModelSummary(Answer):
    name: str
    version: int
    """The version served when none is named."""
    description: str
    provider: str
    device: str
    """`cpu`, or a CUDA device as `cuda:0`; with several workers each has its own."""
    precision: str
    """Of the graph that runs, `fp32` or `fp16`."""
    classes: int
    accuracy: float | None
    """On held-out images; what they are is in the manifest's metrics."""
    attention: bool
    """Whether it can say where it looked, which `attention=true` asks `classify` for."""
    versions: list[VersionState]
    labels: dict[str, int]
    """Names of versions, which can be named instead of them."""


class Chosen(Answer):
    name: str
    version: int
    """The version that is served now where none is named."""


class Labels(Answer):
    labels: dict[str, int]
    shares: dict[str, float]
    """By label, the percentage of the inferences that name no version which its version answers."""
    withheld: list[int]
    """Versions that are served by default only once they are loaded by their number."""


class FailedModel(Answer):
    name: str
    version: int | None
    """Null where it is not one version: they cannot be listed, or the policy or the labels cannot be read."""
    reason: str


class ModelList(Answer):
    models: list[ModelSummary]
    failed: list[FailedModel]
    repository_problem: str
    """Why the repository cannot be reached, while all that is served goes on; empty if it can."""


class LayerMeaning(Answer):
    """What the statistics of one layer are to be judged by; from its activation's entry in the catalogue."""

    layer: str
    activation: str
    channels: int
    saturation: Saturation | None
    """Saturated is an output y ≤ `below` or y ≥ `above`; null where the output cannot show it."""
    output_range: tuple[float | None, float | None] | None
    """Infimum and supremum of the output, null where it is unbounded; null as a whole when it is not known."""
    zero_is_dead: bool | None
    """Whether a channel of nothing but zeros has no gradient either: only then are silent channels counted."""
    expected_mean_shift: float | None
    """The `mean_shift` for inputs from N(0, 1); null when it is not known."""


class LayerMap(Of):
    """The activation maps of one layer for one image."""

    layer: str
    channels: list[int]
    height: int
    width: int
    values: list[list[list[float | None]]]
    """channels × height × width; null for what is not finite"""


class Memory(Answer):
    """Bytes of weights held on the CPU."""

    weights: int
    statistics: int
    """What the second session, which computes statistics, adds."""


class ModelDetail(ModelSummary):
    manifest: ModelManifest
    layers: list[LayerMeaning]
    """In the order of the statistics of an image."""
    statistics_outputs: list[TensorSpec]
    """Further outputs that a V2 inference request can name."""
    memory: Memory
    load_seconds: float
