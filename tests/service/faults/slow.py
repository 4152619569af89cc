"""A classifier that takes its time: `Tiny` behind convolutions of a large map that change nothing."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper, parser

from tests import bundles

CHANNELS = 32
SIDE = 32 * bundles.SIZE


@dataclass(frozen=True)
class Slow:
    """The answers of `tiny`, after `layers` × 0.6 G multiplications an image."""

    tiny: bundles.Tiny
    layers: int

    def graph(self) -> onnx.ModelProto:
        steps = "\n".join(
            f"m{layer + 1} = Conv<pads = [1, 1, 1, 1]>(m{layer}, identity)" for layer in range(self.layers)
        )
        model = parser.parse_model(
            bundles.GRAPH.replace(
                "scaled = Mul(images, scale)",
                f"""large = Resize<mode = "nearest">(images, none, factors)
                m0 = Conv<pads = [0, 0, 0, 0]>(large, spread)
                {steps}
                narrow = Conv<pads = [0, 0, 0, 0]>(m{self.layers}, gather)
                small = AveragePool<kernel_shape = [32, 32], strides = [32, 32]>(narrow)
                scaled = Mul(small, scale)""",
            )
        )
        identity = np.zeros((CHANNELS, CHANNELS, 3, 3), np.float32)
        identity[range(CHANNELS), range(CHANNELS), 1, 1] = 1
        spread = np.zeros((CHANNELS, 3, 1, 1), np.float32)
        spread[range(3), range(3)] = 1
        weights = {
            **self.tiny.weights,
            "identity": identity,
            "spread": spread,
            "gather": np.ascontiguousarray(spread.transpose(1, 0, 2, 3)),
            "factors": np.array([1, 1, 32, 32], np.float32),
            "none": np.zeros(0, np.float32),
        }
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
        onnx.checker.check_model(model, full_check=True)
        return model

    def content(self) -> bytes:
        return self.graph().SerializeToString()
