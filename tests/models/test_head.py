"""The linear head as the graph has it, whichever way it is written; none where there is none."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.instrument import instrument
from models.manifest import ModelManifest
from models.repository import Entry, ModelRepository
from models.shelf import SHIPPED_MODELS
from models.statistics import layout
from models.statistics.head import linear_head
from tests.models import graphs

MANIFEST = graphs.manifest("rectifier")


def features(manifest: ModelManifest, outputs: graphs.Outputs) -> np.ndarray:
    return outputs[layout.MEAN][:, -manifest.sites[-1].channels :]


def assert_gives_the_logits(model: onnx.ModelProto) -> None:
    head = linear_head(model, MANIFEST)
    assert head is not None
    outputs = graphs.run(instrument(model, MANIFEST), graphs.images(7))
    np.testing.assert_allclose(head.logits(features(MANIFEST, outputs)), outputs["logits"], rtol=1e-5, atol=1e-5)


def changed(weights: np.ndarray | None = None, bias: np.ndarray | None = None, **attributes: float) -> onnx.ModelProto:
    """The small classifier with another last layer."""
    model = graphs.graph("rectifier")
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    kept = [a for a in gemm.attribute if a.name not in attributes]
    del gemm.attribute[:]
    gemm.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attributes.items())])
    for name, values in ((gemm.input[1], weights), (gemm.input[2], bias)):
        if values is not None:
            tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    return model


def weights() -> np.ndarray:
    return np.random.default_rng(2).normal(0, 1, (graphs.CLASSES, graphs.WIDTH))


@pytest.mark.parametrize(
    "model",
    [
        changed(),
        changed(weights().T, transB=0),
        changed(alpha=0.5, beta=3.0),
        changed(bias=np.array([2.0])),
        changed(bias=np.array(2.0)),
        changed(bias=np.arange(graphs.CLASSES)[None]),
    ],
    ids=["as exported", "not transposed", "scaled", "one bias", "scalar bias", "a row of biases"],
)
def test_logits_are_those_of_the_graph(model: onnx.ModelProto) -> None:
    assert_gives_the_logits(model)


def test_no_bias() -> None:
    model = graphs.graph("rectifier")
    del next(node for node in model.graph.node if node.op_type == "Gemm").input[2]
    assert_gives_the_logits(model)


def without_linear_layer() -> onnx.ModelProto:
    model = graphs.graph("rectifier")
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.output[0] = "before"
    model.graph.node.append(helper.make_node("Tanh", ["before"], ["logits"]))
    return model


def weights_of_the_input() -> onnx.ModelProto:
    model = graphs.graph("rectifier")
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    model.graph.node.insert(0, helper.make_node("Neg", [gemm.input[1]], ["computed"]))
    gemm.input[1] = "computed"
    return model


@pytest.mark.parametrize("model", [without_linear_layer(), weights_of_the_input()], ids=["tanh", "computed weights"])
def test_no_head_where_the_last_layer_is_not_linear(model: onnx.ModelProto) -> None:
    assert linear_head(model, MANIFEST) is None


def test_no_head_of_another_width() -> None:
    """A linear layer behind something other than the last site's channels."""
    narrow = MANIFEST.sites[-1].model_copy(update={"channels": 8})
    manifest = MANIFEST.model_copy(update={"sites": (*MANIFEST.sites[:-1], narrow)})
    assert linear_head(graphs.graph("rectifier"), manifest) is None


@pytest.mark.parametrize("entry", ModelRepository(SHIPPED_MODELS).entries(), ids=str)
def test_heads_of_the_shipped_models_see_their_last_site(entry: Entry) -> None:
    bundle = ModelRepository(SHIPPED_MODELS).open(entry.name, entry.version)
    model, manifest = onnx.load_from_string(bundle.graph), bundle.manifest
    head = linear_head(model, manifest)
    assert head is not None
    pixels = np.random.default_rng(0).integers(0, 256, (4, *manifest.inputs[0].shape[1:])).astype(np.float32)
    outputs = graphs.run(instrument(model, manifest), pixels)
    np.testing.assert_allclose(head.logits(features(manifest, outputs)), outputs["logits"], rtol=1e-4, atol=1e-4)
