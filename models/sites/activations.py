"""Finds the activations of a graph and says what each means."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import NodeProto

from models.manifest import ActivationSite
from models.sites.expressions import (
    ACTIVATION_OPERATORS,
    Expression,
    expressions,
    function_of,
    is_elementwise,
)
from models.sites.graph import Graph, is_own
from models.sites.groupings import GLU, gated_pair, grouping_of
from models.sites.meaning import Meaning, recognise
from models.sites.moments import normal_moments
from models.sites.names import distinct, module_path, own_name

GATES = {"hard_sigmoid", "hard_sigmoid_02", "sigmoid"}
"""Whatever multiplies another tensor with one of these uses it as a gate, not as a feature map."""


@dataclass(frozen=True)
class Activation:
    """One activation of a graph: the nodes that compute it and what it is."""

    expression: Expression
    key: str
    meaning: Meaning | None
    """None for an activation that is not in the catalogue."""
    moments: tuple[float, float] | None


def find_sites(model: onnx.ModelProto) -> tuple[ActivationSite, ...]:
    """The activations whose output is a feature map N×C×H×W, in the order in which the graph computes them.

    An activation is a node of this project's domain, a standard activation operator, or nodes that together compute one
    of the known activations from a single tensor, in whatever way. Not counted are parts of another one (the sigmoid of
    x·σ(x)), gates (a sigmoid that only multiplies other tensors), and what follows global pooling.
    """
    graph = Graph(model)
    found = find_activations(graph)
    names = _names(graph, found)
    return tuple(_describe(graph, activation, name) for activation, name in zip(found, names, strict=True))


def find_activations(graph: Graph) -> list[Activation]:
    """The same, with the nodes that make them up."""
    found = [
        activation
        for index, node in enumerate(graph.nodes)
        if node.output and graph.channels(node.output[0]) is not None and (activation := _at(graph, index)) is not None
    ]
    inner = {name for activation in found for name in _hidden(graph, activation.expression)}
    return [
        activation
        for activation in found
        if activation.expression.result not in inner and not _is_gate(graph, activation)
    ]


def _at(graph: Graph, index: int) -> Activation | None:
    """The activation that ends in this node, if one does: of several ways to see it, the longest."""
    node = graph.nodes[index]
    if is_own(node):
        return _own(graph, index)
    if (pair := gated_pair(graph, index)) is not None:
        return Activation(pair, GLU.key, GLU.meaning, GLU.moments)
    if not is_elementwise(node):
        return None
    ways = list(expressions(graph, index))
    recognised = [found for way in ways if (found := _recognised(graph, way, node.op_type)) is not None]
    if recognised:
        return recognised[-1]
    return _unknown(ways[0], node) if ways and node.op_type in ACTIVATION_OPERATORS else None


def _own(graph: Graph, index: int) -> Activation:
    """A node of this project's domain is an activation, whether it is known here or not."""
    node = graph.nodes[index]
    whole = Expression(node.input[0], node.output[0], (index,))
    if (grouping := grouping_of(graph, node)) is not None:
        return Activation(whole, grouping.key, grouping.meaning, grouping.moments)
    return _recognised(graph, whole, node.op_type, linear=True) or _unknown(whole, node)


def _recognised(graph: Graph, expression: Expression, name: str, linear: bool = False) -> Activation | None:
    function = function_of(graph, expression)
    known = None if function is None else recognise(function, name, linear)
    if function is None or known is None:
        return None
    key, meaning = known
    return Activation(expression, key, meaning, normal_moments(function, meaning.kinks))


def _unknown(expression: Expression, node: NodeProto) -> Activation:
    return Activation(expression, node.op_type.lower(), None, None)


def _hidden(graph: Graph, expression: Expression) -> Iterator[str]:
    """What is computed within an expression and read nowhere else."""
    inside = set(expression.nodes)
    for index in inside:
        for name in graph.nodes[index].output:
            if name != expression.result and name not in graph.outputs and inside.issuperset(graph.readers[name]):
                yield name


def _is_gate(graph: Graph, activation: Activation) -> bool:
    name = activation.expression.result
    readers = [graph.nodes[index] for index in graph.readers[name]]
    return (
        activation.key in GATES
        and bool(readers)
        and name not in graph.outputs
        and all(node.op_type == "Mul" and node.domain == "" for node in readers)
    )


def _names(graph: Graph, found: list[Activation]) -> list[str]:
    """The module's path where the module is nothing but activations, else the path and what it is."""
    nodes_of: dict[str, set[int]] = defaultdict(set)
    for index, node in enumerate(graph.nodes):
        if node.op_type != "Constant":
            nodes_of[module_path(node)].add(index)
    activations = {index for activation in found for index in activation.expression.nodes}
    return distinct(_name(graph.nodes[a.expression.nodes[-1]], a.key, nodes_of, activations) for a in found)


def _name(node: NodeProto, key: str, nodes_of: Mapping[str, set[int]], activations: set[int]) -> str:
    path = module_path(node)
    if is_own(node) or not path:
        return own_name(node)
    return path if nodes_of[path] <= activations else f"{path}.{key}"


def _describe(graph: Graph, activation: Activation, name: str) -> ActivationSite:
    tensor = activation.expression.result
    channels = graph.channels(tensor)
    assert channels is not None
    site = ActivationSite(
        name=name,
        activation=activation.key,
        tensor=tensor,
        channels=channels,
        # Unless it is known better.
        signed=True,
        saturation=None,
        datatype="FP16" if graph.is_half(tensor) else "FP32",
    )
    if (meaning := activation.meaning) is None:
        return site
    low, high = (bound if math.isfinite(bound) else None for bound in meaning.output_range)
    mean, variance = activation.moments or (None, None)
    return site.model_copy(
        update={
            "signed": meaning.output_range[0] < 0,
            "saturation": meaning.saturation,
            "output_range": (low, high),
            "zero_is_dead": meaning.zero_is_dead,
            "normal_mean": mean,
            "normal_variance": variance,
        }
    )
