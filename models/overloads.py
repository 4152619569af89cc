"""Which body of an activation a provider runs: a published graph may hold several, as overloads of one ONNX function.

The body without an overload is the one that any runtime uses. Another with the same name, whose `overload` is that of
an execution provider (`cpu`, `cuda`), computes the same and is faster in a network there.
"""

from onnx import ModelProto

from models.opset import DOMAIN


def choose_overload(model: ModelProto, overload: str) -> ModelProto:
    """Return a copy of `model` in which every activation uses its body for `overload`, where the model has one."""
    chosen = ModelProto()
    chosen.CopyFrom(model)
    offered = {
        function.name for function in model.functions if function.domain == DOMAIN and function.overload == overload
    }
    for node in chosen.graph.node:
        if node.domain == DOMAIN and node.op_type in offered:
            node.overload = overload
    return chosen
