"""A tiny model with a baseline, and windows of its traffic."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelManifest
from models.repository import Bundle, ModelRepository
from models.statistics.baseline import Baseline
from models.statistics.head import linear_head
from models.statistics.window import Window, WindowReader
from service.runtime.model import LoadedModel
from service.runtime.provider import CPU
from tests import bundles

MANIFEST = bundles.manifest("tiny", 1, {"model.onnx": "0" * 64})
MODEL = bundles.Tiny.random(2)
READER = WindowReader(MANIFEST)


def images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, bundles.SIZE, bundles.SIZE), dtype=np.uint8)


def outputs(model: LoadedModel, pixels_NCHW: NDArray) -> Mapping[str, NDArray[np.float32]]:
    """Of an instrumented run."""
    return model.run(pixels_NCHW.astype(np.float32), model.output_names + model.statistics_names)


def load() -> LoadedModel:
    """The model, in memory."""
    graph = MODEL.graph().SerializeToString()
    digests = {"model.onnx": hashlib.sha256(graph).hexdigest()}
    return LoadedModel(Bundle(Path(), bundles.manifest("tiny", 1, digests), graph, None), CPU, threads=1)


def window(model: LoadedModel, count: int, seed: int = 0) -> Window:
    return READER.of(outputs(model, images(count, seed)))


def publish(root: Path, baseline: bytes | None = None, tiny: bundles.Tiny = MODEL, count: int = 600) -> int:
    """Put a model on a shelf with a baseline: that of `MODEL` over `count` random images, unless another is given."""
    graph = tiny.graph()
    content = graph.SerializeToString()
    if baseline is None:
        model = load()
        baseline = Baseline.of(
            [outputs(model, images(count, seed=100))],
            model.manifest,
            linear_head(graph, model.manifest),
            model.manifest.digests["model.onnx"],
        ).to_bytes()

    def describe(version: int, digests: Mapping[str, str]) -> ModelManifest:
        plain = bundles.manifest("tiny", version, {"model.onnx": digests["model.onnx"]})
        return plain.model_copy(update={"baseline": "baseline.npz", "digests": digests})

    return ModelRepository(root).publish("tiny", {"model.onnx": content, "baseline.npz": baseline}, describe)
