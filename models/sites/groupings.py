"""Activations that are no function of one number: of groups of channels, or of the whole image."""

import math
import re
from dataclasses import dataclass

from onnx import NodeProto

from models.sites.expressions import Expression
from models.sites.graph import Graph, is_own
from models.sites.meaning import INF, NEVER, Meaning


@dataclass(frozen=True)
class Grouping:
    """What such an activation is, and the mean and variance of its output for inputs from N(0, 1)."""

    key: str
    meaning: Meaning
    moments: tuple[float, float] | None = None


_ANY = Meaning(lambda x: x, (-INF, INF), NEVER)
CRELU = Grouping(
    "crelu",
    Meaning(lambda x: x, (0.0, INF), NEVER),
    (1 / math.sqrt(2 * math.pi), 1 / 2 - 1 / (2 * math.pi)),
)
GLU = Grouping("glu", Meaning(lambda x: x, (-INF, INF), None), (0.0, 0.293379035858093))
OPERATORS = {"ConcatenatedRelu": CRELU, "GatedLinear": GLU, "FunnelRelu": Grouping("frelu", _ANY)}
"""By operator of this project's domain."""
MAXOUT = re.compile(r"Maxout([0-9]+)")
COEFFICIENTS = 4
"""Of a dynamic ReLU, for all channels together or for each."""


def grouping_of(graph: Graph, node: NodeProto) -> Grouping | None:
    """What a node of this project's domain is, if it is one of these."""
    if (pieces := MAXOUT.fullmatch(node.op_type)) is not None:
        # The larger of two: E = 1/√π, E of the square is 1.
        two = (1 / math.sqrt(math.pi), 1 - 1 / math.pi)
        return Grouping("maxout", _ANY, two if pieces[1] == "2" else None)
    if node.op_type == "DynamicReluSpatial":
        return Grouping("dynamic_relu_c", _ANY)
    if node.op_type == "DynamicRelu":
        weights = graph.sizes(node.input[3]) if len(node.input) > 3 else None
        return Grouping("dynamic_relu_a" if weights and weights[0] == COEFFICIENTS else "dynamic_relu_b", _ANY)
    return OPERATORS.get(node.op_type)


def gated_pair(graph: Graph, index: int) -> Expression | None:
    """a·σ(b) with a and b the halves of one tensor's channels: GLU written in standard operators."""
    node = graph.nodes[index]
    if node.op_type != "Mul" or is_own(node) or len(node.input) != 2:
        return None
    for value, gate in (tuple(node.input), tuple(reversed(node.input))):
        sigmoid = graph.producer.get(gate)
        split = graph.producer.get(value)
        if sigmoid is None or split is None or graph.nodes[sigmoid].op_type != "Sigmoid":
            continue
        halves = graph.nodes[split]
        if halves.op_type == "Split" and list(halves.output) == [value, graph.nodes[sigmoid].input[0]]:
            return Expression(halves.input[0], node.output[0], (split, sigmoid, index))
    return None
