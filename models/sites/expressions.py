"""Tensors that are a function of one other tensor, the same at every position: as nodes, and as numbers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator

from models.sites.graph import FLOATS, Graph, is_own

Values = NDArray[np.float64]
Function = Callable[[Values], Values]
"""From G inputs to outputs of shape C×G, or 1×G where all channels are alike."""

LARGEST = 24
"""Nodes of the longest expression that is looked at; the tanh form of GELU has 9 and its constants."""

# What no activation is made of alone.
LINEAR = {"Add", "Cast", "CastLike", "Div", "Identity", "Mul", "Neg", "Sub"}
ACTIVATION_OPERATORS = {
    "Celu",
    "Clip",
    "Elu",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Mish",
    "PRelu",
    "Relu",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
}
ELEMENTWISE = (
    LINEAR
    | ACTIVATION_OPERATORS
    | {"Abs", "And", "Equal", "Erf", "Exp", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Log", "Max", "Min"}
    | {"Not", "Or", "Pow", "Reciprocal", "Sign", "Sqrt", "Sum", "Where"}
)


@dataclass(frozen=True)
class Expression:
    """`result` = f(`source`), computed by `nodes` alone, in topological order."""

    source: str
    result: str
    nodes: tuple[int, ...]


def expressions(graph: Graph, index: int) -> Iterator[Expression]:
    """Every way to see the output of a node as a function of one tensor, nearest source first.

    Constants of it are numbers, or one number a channel. A node of the project's own domain is a whole by itself.
    """
    taken = {index}
    frontier = _reads(graph, graph.nodes[index])
    if is_own(graph.nodes[index]):
        if frontier is not None and len(frontier) == 1:
            yield _expression(graph, index, taken, frontier)
        return
    while frontier:
        if len(frontier) == 1 and any(graph.nodes[node].op_type not in LINEAR for node in taken):
            yield _expression(graph, index, taken, frontier)
        latest = max(frontier, key=lambda name: graph.producer.get(name, -1))
        producer = graph.producer.get(latest)
        if producer is None or len(taken) >= LARGEST or not is_elementwise(graph.nodes[producer]):
            return
        more = _reads(graph, graph.nodes[producer])
        if more is None:
            return
        taken.add(producer)
        frontier = (frontier - {latest}) | more


def is_elementwise(node: NodeProto) -> bool:
    """Whether a standard node computes each number of its output from the numbers in the same place."""
    return node.domain in ("", "ai.onnx") and node.op_type in ELEMENTWISE


def function_of(graph: Graph, expression: Expression) -> Function | None:
    """The expression as a function of float64; None where the reference implementation of ONNX cannot compute it."""
    try:
        evaluator = ReferenceEvaluator(_extract(graph, expression))
    except (RuntimeError, NotImplementedError):
        return None

    def function(x: Values) -> Values:
        with np.errstate(all="ignore"):
            (y,) = evaluator.run(None, {expression.source: x.reshape(1, 1, 1, -1)})
        y = np.asarray(y, np.float64)
        return y.reshape(-1, len(x)) if y.size % len(x) == 0 else np.full((1, len(x)), np.nan)

    try:
        function(np.zeros(1))
    # It raises whatever an unknown operator, a missing attribute or a wrong type provokes.
    except Exception:
        return None
    return function


def _expression(graph: Graph, index: int, nodes: set[int], frontier: set[str]) -> Expression:
    (source,) = frontier
    return Expression(source, graph.nodes[index].output[0], tuple(sorted(nodes)))


def _reads(graph: Graph, node: NodeProto) -> set[str] | None:
    """What a node reads but constants; None where one of those differs from position to position."""
    names = {name for name in node.input if name}
    constants = {name for name in names if graph.is_constant(name)}
    if not is_own(node) and not all(_same_everywhere(graph, name) for name in constants):
        return None
    return names - constants


def _same_everywhere(graph: Graph, name: str) -> bool:
    sizes = graph.sizes(name) or ()
    return all(size == 1 for axis, size in enumerate(reversed(sizes)) if axis != 2) and len(sizes) <= 4


def _extract(graph: Graph, expression: Expression) -> onnx.ModelProto:
    """The expression as a model of its own, all floats of which are double: the reference does not mix them."""
    nodes = [graph.nodes[index] for index in expression.nodes]
    names = {name for node in nodes for name in node.input if graph.is_constant(name)}
    constants = [graph.nodes[index] for index in sorted(_makers(graph, names))]
    names |= {name for node in constants for name in node.input}
    weights = [_doubled(weight) for name in sorted(names) if (weight := graph.weight(name)) is not None]
    used = {node.op_type for node in nodes}
    functions = [function for function in graph.model.functions if function.name in used and not function.overload]
    whole = helper.make_graph(
        [_in_double(node) for node in [*constants, *nodes]],
        "expression",
        [helper.make_tensor_value_info(expression.source, TensorProto.DOUBLE, None)],
        [helper.make_tensor_value_info(expression.result, TensorProto.DOUBLE, None)],
        weights,
    )
    model = helper.make_model(whole, opset_imports=graph.model.opset_import, functions=functions)
    # The reference does not hand a function's attributes on to all operators.
    return inliner.inline_local_functions(model) if functions else model


def _makers(graph: Graph, names: set[str]) -> set[int]:
    """The nodes that constants come from."""
    found: set[int] = set()
    waiting = list(names)
    while waiting:
        index = graph.producer.get(waiting.pop())
        if index is not None and index not in found:
            found.add(index)
            waiting.extend(graph.nodes[index].input)
    return found


def _in_double(node: NodeProto) -> NodeProto:
    if node.op_type == "Constant":
        (attribute,) = node.attribute
        value = helper.get_attribute_value(attribute)
        if not isinstance(value, TensorProto):
            value = numpy_helper.from_array(np.asarray(value))
        return helper.make_node("Constant", [], list(node.output), value=_doubled(value))
    if node.op_type == "Cast" and any(a.name == "to" and a.i in FLOATS for a in node.attribute):
        return helper.make_node("Cast", list(node.input), list(node.output), to=TensorProto.DOUBLE)
    return node


def _doubled(tensor: TensorProto) -> TensorProto:
    if tensor.data_type not in FLOATS:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
