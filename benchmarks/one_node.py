"""Graphs of a single node, N×C×H×W in and out: an activation as an export writes it, or a standard operator."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from models.opset import DOMAIN, DOMAIN_VERSION, IR_VERSION, STANDARD_OPSET
from training.activations.entry import ActivationModule


def activation_graph(module: ActivationModule) -> onnx.ModelProto:
    """The activation's node with its learned tensors, and its body for every provider."""
    node = module.node()
    attributes: Mapping[str, Any] = node.attributes
    functions = []
    for overload, body in {"": node.body, **node.overloads}.items():
        function = body.to_function_proto()
        function.name, function.overload = node.body.name, overload
        functions.append(function)
    tensors = [numpy_helper.from_array(tensor.detach().numpy(), name) for name, tensor in node.inputs.items()]
    return _graph(
        helper.make_node(node.body.name, ["x", *node.inputs], ["y"], domain=DOMAIN, **attributes),
        tensors,
        functions,
    )


def operator_graph(operator: str, attributes: Mapping[str, Any]) -> onnx.ModelProto:
    """An operator of the standard domain."""
    return _graph(helper.make_node(operator, ["x"], ["y"], **attributes), (), ())


def _graph(
    node: onnx.NodeProto, tensors: Sequence[onnx.TensorProto], functions: Sequence[onnx.FunctionProto]
) -> onnx.ModelProto:
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}_{axis}" for axis in "nchw"]) for name in "xy"
    )
    return helper.make_model(
        helper.make_graph([node], "activation", [x], [y], tensors),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", STANDARD_OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        functions=functions,
    )
