"""Graphs in half precision: against the evaluator of ONNX, which rounds after every operator, as a GPU does."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from models.instrument import instrument
from models.opset import DOMAIN
from models.overloads import choose_overload
from tests.training.small import SIZE, problem, randomise
from training.classifier import PixelClassifier
from training.data.images import LabelledImages
from training.export import half
from training.export.graph import INPUT, OUTPUT, ExportedGraph, ExportParityError, export, open_session
from training.export.half import check_half, halve
from training.publication.bundle import draft_manifest
from training.resnet.network import NetworkConfig, build_network

DATA = problem(held_out=60)
# With what it has learned, a body of several operators, a body for CUDA alone.
ACTIVATIONS = ("prelu", "mish", "elu")


@pytest.fixture(scope="module", params=ACTIVATIONS)
def exported(request: pytest.FixtureRequest) -> ExportedGraph:
    network = build_network(NetworkConfig("resnet8", request.param, classes=3, channels=1))
    randomise(network)
    return export(PixelClassifier(network, (127.5,), (64.0,)).eval(), request.param, (1, SIZE, SIZE))


def run(model: onnx.ModelProto, names: list[str] | None = None) -> list[NDArray[np.float32]]:
    pixels = DATA.held_out.pixels[:4].astype(np.float32)
    return open_session(model).run(names, {INPUT: pixels})


def test_only_inputs_and_outputs_stay_in_single_precision(exported: ExportedGraph) -> None:
    model = halve(exported.model)
    assert {tensor.data_type for tensor in model.graph.initializer} <= {TensorProto.FLOAT16, TensorProto.INT64}
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert [node.op_type for node in model.graph.node].count("Cast") == 2
    assert model.functions == exported.model.functions
    activations = [
        [node.name for node in graph.graph.node if node.domain == DOMAIN] for graph in (model, exported.model)
    ]
    assert activations[0] == activations[1]
    # What was given is not changed.
    assert any(tensor.data_type == TensorProto.FLOAT for tensor in exported.model.graph.initializer)


def test_logits_are_close_where_every_operator_rounds(exported: ExportedGraph) -> None:
    model = choose_overload(halve(exported.model), "cuda")
    pixels = DATA.held_out.pixels[:4].astype(np.float32)
    # The evaluator does not pass attributes on to the bodies of functions; e^x of a large x is infinite in float16.
    with np.errstate(over="ignore"):
        (rounded,) = ReferenceEvaluator(inline_local_functions(model)).run([OUTPUT], {INPUT: pixels})
    (expected,) = run(exported.model)
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - expected).max() < half.TOLERANCE * np.abs(expected).max()


def test_statistics_are_those_of_single_precision_but_for_rounding(exported: ExportedGraph) -> None:
    manifest = draft_manifest("small", "", DATA.class_names, DATA.preprocessing, exported)
    names = [output.name for output in instrument(exported.model, manifest).graph.output]
    expected, actual = (run(instrument(graph, manifest), names) for graph in (exported.model, halve(exported.model)))
    for name, value, single in zip(names, actual, expected, strict=True):
        assert value.dtype == np.float32
        if "active" in name or "saturated" in name:  # counts of what lies beside a bound
            assert np.abs(value - single).mean() < 0.01, name
        else:
            np.testing.assert_allclose(value, single, rtol=0.05, atol=0.02 * np.abs(single).max(), err_msg=name)


def test_what_held_out_images_say_is_recorded(exported: ExportedGraph) -> None:
    model = halve(exported.model)
    found = check_half(exported.model, model, DATA)
    (expected,) = open_session(exported.model).run([OUTPUT], {INPUT: DATA.held_out.pixels.astype(np.float32)})
    (actual,) = open_session(model).run([OUTPUT], {INPUT: DATA.held_out.pixels.astype(np.float32)})
    assert found.difference == pytest.approx(np.abs(actual - expected).max() / np.abs(expected).max(), rel=0.2)
    assert 0 < found.difference < found.tolerance == half.TOLERANCE
    assert found.metrics.images == len(DATA.held_out)
    assert found.metrics.accuracy == (actual.argmax(1) == DATA.held_out.labels).mean()


def scaled(model: onnx.ModelProto, name: str, factor: float) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (tensor,) = (tensor for tensor in changed.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), name))
    return changed


def head(model: onnx.ModelProto) -> str:
    (gemm,) = (node for node in model.graph.node if node.op_type == "Gemm")
    return gemm.input[1]


def test_logits_that_are_off_are_refused(exported: ExportedGraph) -> None:
    wrong = scaled(halve(exported.model), head(exported.model), 1.1)
    with pytest.raises(ExportParityError, match=r"logits in half precision differ by .* of the largest"):
        check_half(exported.model, wrong, DATA)


def test_accuracy_that_falls_is_refused(exported: ExportedGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    (logits,) = open_session(exported.model).run([OUTPUT], {INPUT: DATA.held_out.pixels.astype(np.float32)})
    # As good as can be in single precision.
    data = replace(DATA, held_out=LabelledImages(DATA.held_out.pixels, logits.argmax(1)))
    assert check_half(exported.model, halve(exported.model), data).metrics.accuracy > 0.99
    monkeypatch.setattr(half, "TOLERANCE", 10.0)
    with pytest.raises(ExportParityError, match=r"accuracy in half precision is .* instead of 100.00%"):
        check_half(exported.model, scaled(halve(exported.model), head(exported.model), -1.0), data)


def test_values_that_have_no_room_are_refused(exported: ExportedGraph) -> None:
    first = next(node for node in exported.model.graph.node if node.op_type == "Conv").input[1]
    loud = scaled(exported.model, first, 1e6)
    with pytest.raises(ExportParityError, match=r"values of the graph reach .*, and half precision ends at 65504"):
        check_half(loud, halve(exported.model), DATA)
