"""Small residual classifiers with any activation, as an export writes them: what the instrument and the statistics see.

images → conv → act1 → (conv → act2 → conv, + shortcut) → act3 → mean → linear. The activation is one node of the
project's domain; its body is made of standard operators.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from models.manifest import ActivationSite, BlockEnd, ModelManifest, Preprocessing, Saturation, TensorSpec

Outputs = dict[str, NDArray[np.float32]]

WIDTH = 16
CLASSES = 5
SIZE = 8

# Body of the function; whether its output can be negative; where its output saturates.
ACTIVATIONS: dict[str, tuple[str, bool, Saturation | None]] = {
    "rectifier": ("y = Relu(x)", False, Saturation(below=0.0)),
    "two_sided": ("y = Tanh(x)", True, Saturation(below=-0.95, above=0.95)),
    "unsigned_two_sided": ("y = Sigmoid(x)", False, Saturation(below=0.1, above=0.8)),
    "from_below": ("y = Elu(x)", True, Saturation(below=-0.7)),
    "from_above": ("one = Constant<value_float = 1.0>() y = Min(x, one)", True, Saturation(above=1.0)),
    "unsigned_from_above": (
        "r = Relu(x) one = Constant<value_float = 1.0>() y = Min(r, one)",
        False,
        Saturation(above=1.0),
    ),
    # Outputs that lie exactly on the bounds.
    "clipped": ("y = HardSigmoid<alpha = 2.0, beta = 0.2>(x)", False, Saturation(below=0.0, above=1.0)),
    "shifted": ("half = Constant<value_float = -0.5>() y = Max(x, half)", True, Saturation(below=-0.5)),
    "never": ("y = LeakyRelu<alpha = 0.1>(x)", True, Saturation()),
    "not_told": ("s = Sigmoid(x) y = Mul(x, s)", True, None),
    # Signed, and zero on a half-line.
    "gated": ("y = HardSwish(x)", True, None),
    "unsigned_not_told": ("y = Mul(x, x)", False, None),
}

_GRAPH = """
<ir_version: 10, opset_import: ["" : 20, "reslens" : 1]>
network (float[N, 3, {size}, {size}] images) => (float[N, {classes}] logits) {{
    stem = Conv<pads = [1, 1, 1, 1]>(images, w0, b0)
    act1 = reslens.activation(stem)
    inner = Conv<pads = [1, 1, 1, 1]>(act1, w1, b1)
    act2 = reslens.activation(inner)
    branch = Conv<pads = [1, 1, 1, 1]>(act2, w2, b2)
    total = Add(branch, act1)
    act3 = reslens.activation(total)
    pooled = GlobalAveragePool(act3)
    flat = Flatten(pooled)
    logits = Gemm<transB = 1>(flat, w3, b3)
}}
<domain: "reslens", opset_import: ["" : 20]>
activation (x) => (y) {{ {body} }}
"""


def graph(activation: str, seed: int = 0) -> onnx.ModelProto:
    model = parser.parse_model(_GRAPH.format(size=SIZE, classes=CLASSES, body=ACTIVATIONS[activation][0]))
    normal = np.random.default_rng(seed).standard_normal
    weights = {
        "w0": normal((WIDTH, 3, 3, 3)) / 4,
        "b0": normal(WIDTH) / 2,
        "w1": normal((WIDTH, WIDTH, 3, 3)) / 8,
        "b1": normal(WIDTH) / 2,
        "w2": normal((WIDTH, WIDTH, 3, 3)) / 8,
        "b2": normal(WIDTH) / 2,
        "w3": normal((CLASSES, WIDTH)),
        "b3": normal(CLASSES),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def manifest(activation: str, zero_is_dead: bool | None = None, **changes: object) -> ModelManifest:
    """Its sites say nothing of what older bundles did not record, unless `zero_is_dead` is given."""
    _, signed, saturation = ACTIVATIONS[activation]
    described = ModelManifest(
        name="network",
        version=1,
        created=datetime(2026, 1, 2, tzinfo=UTC),
        description="a small residual network",
        baseline=None,
        digests={"model.onnx": "0" * 64},
        inputs=(TensorSpec(name="images", datatype="FP32", shape=(-1, 3, SIZE, SIZE)),),
        outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, CLASSES)),),
        class_names=tuple("abcde"),
        preprocessing=Preprocessing(channels=3, height=SIZE, width=SIZE, resize=SIZE),
        sites=tuple(
            ActivationSite(
                name=f"layer1.{tensor}",
                activation=activation,
                tensor=tensor,
                channels=WIDTH,
                signed=signed,
                saturation=saturation,
                zero_is_dead=zero_is_dead,
            )
            for tensor in ("act1", "act2", "act3")
        ),
        blocks=(BlockEnd(name="layer1.0", output="act3", shortcut="act1"),),
        metrics=None,
        training=None,
    )
    return described.model_copy(update=changes)


def images(count: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (count, 3, SIZE, SIZE)).astype(np.float32)


def run(model: onnx.ModelProto, pixels: NDArray[np.float32]) -> Outputs:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": pixels}), strict=True))


def tensors(model: onnx.ModelProto, names: list[str], pixels: NDArray[np.float32]) -> Mapping[str, NDArray[np.float64]]:
    """Inner tensors of a plain graph, in float64."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    for name in names:
        opened.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    values = run(opened, pixels)
    return {name: values[name].astype(np.float64) for name in names}
