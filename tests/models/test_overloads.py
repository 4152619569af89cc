"""Bodies made for a provider: chosen where a graph has one, left alone elsewhere, and run by a stock ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import helper

from models.overloads import choose_overload
from tests.models import graphs


def with_overload(overload: str) -> onnx.ModelProto:
    """A network whose activation is max(0, x), and has a body max(−x, 0) for `overload` that can be told from it."""
    model = graphs.graph("rectifier")
    nodes = [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Relu", ["n"], ["y"])]
    model.functions.append(
        helper.make_function(
            "reslens", "activation", ["x"], ["y"], nodes, [helper.make_opsetid("", 20)], overload=overload
        )
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def logits(model: onnx.ModelProto) -> np.ndarray:
    return graphs.run(model, graphs.images(3))["logits"]


def test_the_overload_of_the_provider_is_what_runs() -> None:
    model = with_overload("cuda")
    chosen = choose_overload(model, "cuda")
    onnx.checker.check_model(chosen, full_check=True)
    other = graphs.graph("rectifier")
    del other.functions[0].node[:]
    other.functions[0].node.extend(
        [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Relu", ["n"], ["y"])],
    )
    np.testing.assert_array_equal(logits(chosen), logits(other))
    assert np.abs(logits(chosen) - logits(model)).max() > 0.1


@pytest.mark.parametrize("overload", ["cpu", "cuda"])
def test_a_graph_without_it_stays_as_it_is(overload: str) -> None:
    model = graphs.graph("rectifier")
    assert choose_overload(model, overload) == model


def test_a_stock_runtime_uses_the_body_without_overload() -> None:
    np.testing.assert_array_equal(logits(with_overload("cuda")), logits(graphs.graph("rectifier")))


def test_the_graph_given_is_left_alone() -> None:
    model = with_overload("cuda")
    before = model.SerializeToString(deterministic=True)
    choose_overload(model, "cuda")
    assert model.SerializeToString(deterministic=True) == before


def test_functions_of_other_domains_are_not_ours_to_choose() -> None:
    model = with_overload("cuda")
    for function in model.functions:
        function.domain = "elsewhere"
    for node in model.graph.node:
        if node.domain:
            node.domain = "elsewhere"
    assert choose_overload(model, "cuda") == model
