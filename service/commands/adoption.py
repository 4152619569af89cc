"""An ONNX file of any origin → a published bundle: brought into form, checked, measured, written atomically."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from models.foreign.conforming import Conformed, conform, strip
from models.manifest import ActivationSite, BlockEnd, Metrics, ModelManifest, Preprocessing
from models.parity import SAMPLE, ParitySample, sample_pixels
from models.preprocessing import pixels_to_tensor
from models.repository import Bundle, ModelRepository
from models.sites import find_blocks, find_sites
from models.statistics.baseline import Baseline
from models.statistics.head import linear_head
from service.commands.folder import ImageFolder, ImageReader
from service.runtime.cpus import available_cpus
from service.runtime.model import LoadedModel
from service.runtime.original import OriginalGraph
from service.runtime.parity import logits_of
from service.runtime.provider import CPU

Values = NDArray[np.float32]

BATCH = 32
GRAPH, BASELINE = "model.onnx", "baseline.npz"
COMPARED = 3
PARITY = 1e-4
PARITY_OF_HALVES = 2e-2
"""For graphs with float16, which round differently wherever ONNX Runtime puts its casts."""


@dataclass(frozen=True)
class Adopted:
    """What was published."""

    name: str
    version: int
    sites: tuple[ActivationSite, ...]
    blocks: tuple[BlockEnd, ...]
    before_softmax: bool
    images: int
    """Images of the baseline; 0 without one."""
    metrics: Metrics | None
    unusable: dict[Path, str]


def adopt(
    given: onnx.ModelProto,
    repository: ModelRepository,
    name: str,
    class_names: Sequence[str],
    preprocessing: Preprocessing,
    images: Path | None = None,
    output: str | None = None,
    description: str = "",
) -> Adopted:
    """Publish a graph as the next version of `name`.

    It is opened as the service opens it, and compared with the file as it was given on random images. With `images` its
    baseline is measured, and its accuracy if they lie in folders named after the classes. Raises `ValueError` for
    whatever stands against serving it; nothing is published then.
    """
    folder = ImageFolder.find(images, class_names) if images is not None else None
    conformed = conform(given, preprocessing, output)
    sites, blocks = find_sites(conformed.model), find_blocks(conformed.model)
    if not sites:
        raise ValueError(
            "no activation was found in the graph: feature maps N×C×H×W after a standard activation were expected"
        )
    strip(conformed.model)
    if len(class_names) != conformed.logits.shape[1]:
        raise ValueError(
            f"there are {len(class_names)} labels, and the graph puts out {conformed.logits.shape[1]} classes: "
            "give one label for each, in their order"
        )
    files = {GRAPH: _serialise(conformed.model)}
    digests = dict.fromkeys([GRAPH, SAMPLE] if folder is None else [GRAPH, SAMPLE, BASELINE], "0" * 64)
    draft = ModelManifest(
        name=name,
        version=1,
        created=datetime.now(UTC),
        description=description or f"added from an ONNX file of {given.producer_name or 'unknown origin'}",
        baseline=None if folder is None else BASELINE,
        digests=digests,
        inputs=(conformed.images,),
        outputs=(conformed.logits,),
        class_names=tuple(class_names),
        preprocessing=preprocessing,
        sites=sites,
        blocks=blocks,
        metrics=None,
        training=None,
        sample=SAMPLE,
    )
    model = _open(draft, files[GRAPH])
    _compare(model, given, conformed, output)
    pixels = sample_pixels(preprocessing)
    files[SAMPLE] = ParitySample(pixels, logits_of(model, pixels)).to_bytes()
    metrics: Metrics | None = None
    count, unusable = 0, {}
    if folder is not None:
        reader = ImageReader(folder, preprocessing, {}, [])
        metrics, baseline = _measure(model, reader, files[GRAPH])
        files[BASELINE] = baseline.to_bytes()
        count, unusable = len(reader.used), reader.unusable

    def describe(version: int, digests: dict[str, str]) -> ModelManifest:
        return draft.model_copy(update={"version": version, "digests": digests, "metrics": metrics})

    version = repository.publish(name, files, describe)
    return Adopted(name, version, sites, blocks, conformed.before_softmax, count, metrics, unusable)


def _serialise(model: onnx.ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    # Protobuf cannot write more than 2 GiB, and says so in several ways.
    except Exception as error:
        raise ValueError(
            f"the graph with its weights cannot be written as one file of at most 2 GiB: {error}"
        ) from error


def _open(draft: ModelManifest, graph: bytes) -> LoadedModel:
    try:
        return LoadedModel(Bundle(Path(), draft, graph, None), CPU, available_cpus())
    # Whatever keeps the service from serving it, here or in ONNX Runtime.
    except Exception as error:
        raise ValueError(f"the service cannot run this graph: {error}") from error


def _compare(model: LoadedModel, given: onnx.ModelProto, conformed: Conformed, output: str | None) -> None:
    """Raise ValueError where the graph to be published answers otherwise than the one that was given."""
    manifest = model.manifest
    original = OriginalGraph(given, output, available_cpus())
    shape = (original.at_least(COMPARED), *manifest.inputs[0].shape[1:])
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    tensor = pixels_to_tensor(pixels, manifest.preprocessing)
    expected = original.run(tensor).reshape(len(tensor), -1).astype(np.float64)
    logits = model.run(tensor, (model.logits_name,))[model.logits_name].astype(np.float64)
    if not conformed.before_softmax and _are_probabilities(logits):
        raise ValueError(
            f"output {model.logits_name!r} holds probabilities, and they do not come from a Softmax that could be "
            "taken off: name the tensor of the logits with --output"
        )
    actual = _softmax(logits) if conformed.before_softmax else logits
    bound = PARITY_OF_HALVES if original.has_halves else PARITY
    difference = float(np.abs(actual - expected).max()) if actual.shape == expected.shape else np.inf
    if not difference <= bound * (1 + np.abs(expected).max()):
        raise ValueError(
            f"the graph answers otherwise for batches than it did as it was given (by {difference:g}): "
            "its batch size is fixed inside, or its opset cannot be converted; export it with a dynamic batch"
        )


def _are_probabilities(values: NDArray[np.float64]) -> bool:
    return bool((values >= 0).all() and np.allclose(values.sum(1), 1, atol=1e-3))


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(1, keepdims=True)
    return probabilities


def _measure(model: LoadedModel, reader: ImageReader, graph: bytes) -> tuple[Metrics | None, Baseline]:
    """Baseline statistics of every image that can be used; accuracy and loss where their classes are known."""
    manifest = model.manifest
    logits: list[Values] = []

    def batches() -> Iterator[dict[str, Values]]:
        for pixels in reader.batches(BATCH):
            tensor = pixels_to_tensor(pixels, manifest.preprocessing)
            outputs = dict(model.run(tensor, model.output_names + model.statistics_names))
            logits.append(outputs[manifest.logits.name])
            yield outputs

    linear = linear_head(onnx.load_from_string(graph), manifest)
    baseline = Baseline.of(batches(), manifest, linear, hashlib.sha256(graph).hexdigest())
    if reader.folder.labels is None:
        return None, baseline
    labels = np.array(reader.folder.labels)[reader.used]
    return _score(np.concatenate(logits), labels, reader.folder.path.name), baseline


def _score(logits: Values, labels: NDArray[np.int64], data: str) -> Metrics:
    probabilities = _softmax(logits.astype(np.float64))
    chosen = probabilities[np.arange(len(labels)), labels]
    return Metrics(
        images=len(labels),
        accuracy=float((logits.argmax(1) == labels).mean()),
        loss=float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).mean()),
        data=f"{data}, held out",
    )
