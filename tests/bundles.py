"""A real, tiny residual classifier in ONNX, what it computes in plain NumPy, and ways to put it on a shelf."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from models.manifest import ActivationSite, BlockEnd, ModelManifest, Preprocessing, Saturation, TensorSpec
from models.repository import ModelRepository

SIZE = 8
CHANNELS = 16
LABELS = ("cat", "coffee", "rocket")

GRAPH = """
<ir_version: 10, opset_import: ["" : 20, "reslens" : 1]>
tiny (float[N, 3, 8, 8] images) => (float[N, 3] logits) {
    scaled = Mul(images, scale)
    c1 = Conv<pads = [1, 1, 1, 1]>(scaled, w1, b1)
    a1 = reslens.relu(c1)
    c2 = Conv<pads = [1, 1, 1, 1]>(a1, w2, b2)
    total = Add(c2, a1)
    a2 = reslens.relu(total)
    pooled = GlobalAveragePool(a2)
    flat = Flatten(pooled)
    logits = Gemm<transB = 1>(flat, w3, b3)
}
<domain: "reslens", opset_import: ["" : 20]>
relu (x) => (y) { y = Relu(x) }
"""


@dataclass(frozen=True)
class Tiny:
    """The classifier with random weights: scale → conv → relu → (conv + shortcut) → relu → mean → linear."""

    weights: Mapping[str, NDArray[np.float32]]

    @classmethod
    def random(cls, seed: int = 0, scale: float = 1 / 255) -> "Tiny":
        normal = np.random.default_rng(seed).standard_normal
        weights = {
            "scale": scale,
            "w1": normal((CHANNELS, 3, 3, 3)) / 3,
            "b1": normal(CHANNELS) / 3,
            "w2": normal((CHANNELS, CHANNELS, 3, 3)) / 9,
            "b2": normal(CHANNELS) / 3,
            "w3": normal((len(LABELS), CHANNELS)),
            "b3": normal(len(LABELS)),
        }
        return cls({name: np.asarray(value, np.float32) for name, value in weights.items()})

    def graph(self) -> onnx.ModelProto:
        model = parser.parse_model(GRAPH)
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in self.weights.items())
        onnx.checker.check_model(model, full_check=True)
        return model

    def activations(self, pixels_NCHW: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Both activation outputs, in float64."""
        w = {name: value.astype(np.float64) for name, value in self.weights.items()}
        first = np.maximum(_convolve(pixels_NCHW * w["scale"], w["w1"], w["b1"]), 0)
        return first, np.maximum(_convolve(first, w["w2"], w["b2"]) + first, 0)

    def logits(self, pixels_NCHW: NDArray) -> NDArray[np.float64]:
        _, last = self.activations(pixels_NCHW)
        return last.mean((2, 3)) @ self.weights["w3"].T.astype(np.float64) + self.weights["b3"]

    def probabilities(self, pixels_NCHW: NDArray) -> NDArray[np.float64]:
        exponentials = np.exp(self.logits(pixels_NCHW))
        return exponentials / exponentials.sum(-1, keepdims=True)


def _convolve(x_NCHW: NDArray, weight_OIKK: NDArray, bias_O: NDArray) -> NDArray[np.float64]:
    padded = np.pad(x_NCHW, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows_NCHWKK = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows_NCHWKK, weight_OIKK) + bias_O[:, None, None]


def manifest(name: str, version: int, digests: Mapping[str, str]) -> ModelManifest:
    """The manifest of a `Tiny`, with both of its activation sites and its one block."""
    relu = {"activation": "relu", "channels": CHANNELS, "signed": False, "saturation": Saturation(below=0.0)}
    return ModelManifest(
        name=name,
        version=version,
        created=datetime(2026, 1, 2, tzinfo=UTC),
        description="a tiny residual classifier",
        baseline=None,
        digests=dict(digests),
        inputs=(TensorSpec(name="images", datatype="FP32", shape=(-1, 3, SIZE, SIZE)),),
        outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, len(LABELS))),),
        class_names=LABELS,
        preprocessing=Preprocessing(channels=3, height=SIZE, width=SIZE, resize=SIZE),
        sites=(
            ActivationSite(name="act1", tensor="a1", **relu),
            ActivationSite(name="layer1.0.act2", tensor="a2", **relu),
        ),
        blocks=(BlockEnd(name="layer1.0", output="a2", shortcut="a1"),),
        metrics=None,
        training=None,
    )


def publish(root: Path, name: str = "tiny", model: Tiny | None = None, graph: bytes | None = None, **changes) -> int:
    """Put a model on the shelf: `graph` instead of the model's own, `changes` in its manifest."""
    content = graph if graph is not None else (model or Tiny.random()).graph().SerializeToString()

    def describe(version: int, digests: Mapping[str, str]) -> ModelManifest:
        return manifest(name, version, digests).model_copy(update=changes)

    return ModelRepository(root).publish(name, {"model.onnx": content}, describe)
