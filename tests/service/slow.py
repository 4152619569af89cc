"""A tiny model that takes long: its convolutions change nothing that can be seen in the logits."""

from pathlib import Path

import numpy as np
from onnx import numpy_helper, parser

from tests import bundles

WIDTH = 512
TIMES = 16
GRAPH = f"""
<ir_version: 10, opset_import: ["" : 20, "reslens" : 1]>
slow (float[N, 3, 8, 8] images) => (float[N, 3] logits) {{
    scaled = Mul(images, scale)
    c1 = Conv<pads = [1, 1, 1, 1]>(scaled, w1, b1)
    a1 = reslens.relu(c1)
    c2 = Conv<pads = [1, 1, 1, 1]>(a1, w2, b2)
    total = Add(c2, a1)
    a2 = reslens.relu(total)
    h0 = Conv(a2, widen)
    {"".join(f"h{at + 1} = Conv<pads = [1, 1, 1, 1]>(h{at}, heavy)" + chr(10) for at in range(TIMES))}
    narrow = ReduceMean<keepdims = 1>(h{TIMES}, axes)
    nothing = Mul(narrow, zero)
    seen = Add(a2, nothing)
    pooled = GlobalAveragePool(seen)
    flat = Flatten(pooled)
    logits = Gemm<transB = 1>(flat, w3, b3)
}}
<domain: "reslens", opset_import: ["" : 20]>
relu (x) => (y) {{ y = Relu(x) }}
"""


def publish(root: Path, tiny: bundles.Tiny) -> None:
    """Put one on a shelf that has the logits of `tiny`."""
    normal = np.random.default_rng(0).standard_normal
    weights = {
        **tiny.weights,
        "widen": (normal((WIDTH, bundles.CHANNELS, 1, 1)) / 4).astype(np.float32),
        "heavy": (normal((WIDTH, WIDTH, 3, 3)) / (3 * WIDTH**0.5)).astype(np.float32),
        "axes": np.array([1, 2, 3]),
        "zero": np.zeros((), np.float32),
    }
    model = parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in weights.items())
    bundles.publish(root, "slow", graph=model.SerializeToString())
