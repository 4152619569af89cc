"""A graph that computes in half precision between float32 inputs and outputs: its statistics are those of float32."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.instrument import instrument
from models.repository import ModelRepository
from models.statistics import layout
from service.runtime.model import LoadedModel
from service.runtime.provider import CPU
from tests import bundles
from tests.models import graphs


def half(scale: float) -> onnx.ModelProto:
    """`bundles.Tiny` in half precision: its inputs and logits are cast."""
    model = bundles.Tiny.random(scale=scale).graph()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    first, last = model.graph.node[0], model.graph.node[-1]
    first.input[0], last.output[0] = "half_images", "half_logits"
    model.graph.node.insert(0, helper.make_node("Cast", ["images"], ["half_images"], to=TensorProto.FLOAT16))
    model.graph.node.append(helper.make_node("Cast", ["half_logits"], ["logits"], to=TensorProto.FLOAT))
    onnx.checker.check_model(model, full_check=True)
    return model


def pixels(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8)).astype(np.float32)


def activations(model: onnx.ModelProto, images: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    for name in ("a1", "a2"):
        opened.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT16, None))
    values = graphs.run(opened, images)
    assert values["a1"].dtype == values["a2"].dtype == np.float16
    return [values["a1"].astype(np.float64), values["a2"].astype(np.float64)]


# With the second, squares of activations are far beyond 65,504, the largest number of half precision.
@pytest.mark.parametrize("scale", [1 / 255, 2.0])
def test_statistics_are_reduced_in_float32(tmp_path: Path, scale: float) -> None:
    model = half(scale)
    bundles.publish(tmp_path, graph=model.SerializeToString())
    loaded = LoadedModel(ModelRepository(tmp_path).open("tiny"), CPU, threads=1)
    actual = loaded.run(pixels(3), loaded.output_names + loaded.statistics_names)
    first, last = activations(model, pixels(3))
    if scale > 1:
        assert (first**2).max() > 1e6
    both = np.concatenate([first, last], 1)
    # The runtime may keep more digits between its nodes than half precision has.
    close = {"rtol": 5e-3, "atol": 1e-3 * float(both.max())}
    np.testing.assert_allclose(actual[layout.MEAN], both.mean((2, 3)), **close)
    np.testing.assert_allclose(actual[layout.MEAN_SQUARE], (both**2).mean((2, 3)), rtol=1e-2, atol=1e-6)
    np.testing.assert_allclose(actual[layout.MAXIMUM], both.max((2, 3)), **close)
    np.testing.assert_allclose(actual[layout.ACTIVE], (both > 0).mean((2, 3)), atol=0.02)
    np.testing.assert_allclose(actual[layout.SHORTCUT_ENERGY][:, 0], (first**2).mean((1, 2, 3)), rtol=1e-2)
    np.testing.assert_allclose(actual[layout.BRANCH_ENERGY][:, 0], ((last - first) ** 2).mean((1, 2, 3)), rtol=1e-2)


def test_every_reduction_reads_float32() -> None:
    model = half(1.0)
    instrumented = instrument(model, bundles.manifest("tiny", 1, {"model.onnx": "0" * 64}))
    onnx.checker.check_model(instrumented, full_check=True)
    readers = [
        node.op_type for node in instrumented.graph.node[len(model.graph.node) :] if {"a1", "a2"} & set(node.input)
    ]
    # Each tensor is cast once, whoever reads it.
    assert readers == ["Cast", "Cast"]
