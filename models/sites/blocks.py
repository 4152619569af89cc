"""Finds where residual blocks end: the sums of a branch and of what went around it."""

from dataclasses import dataclass

import onnx

from models.manifest import BlockEnd
from models.sites.activations import find_activations
from models.sites.graph import Graph
from models.sites.names import distinct, module_path, own_name

# What a shortcut may be made of; a node with more than one input that is not a constant ends it.
SHORTCUT_OPERATORS = {
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Concat",
    "Conv",
    "Identity",
    "MaxPool",
    "Mul",
    "Add",
    "Pad",
    "Slice",
}


@dataclass(frozen=True)
class _Source:
    """The tensor that a block starts from, and what lies between it and the sum on the shortcut's side."""

    name: str
    convolutions: int


def find_blocks(model: onnx.ModelProto) -> tuple[BlockEnd, ...]:
    """The ends of residual blocks, in order: an Add of two feature maps of which one is a skip of the other.

    The shortcut is the operand that leads back, without passing an activation, to a tensor that the other operand, the
    branch, is computed from; the branch has more convolutions, or an activation. What leaves the block is the sum, or
    the activation after it if nothing else reads the sum and the channels stay the same.
    """
    graph = Graph(model)
    activations = find_activations(graph)
    closing = {activation.expression.source: activation.expression for activation in activations}
    reach = _Reach(graph, {index for activation in activations for index in activation.expression.nodes})
    ends: list[tuple[str, str, str]] = []
    for node in graph.nodes:
        if node.op_type != "Add" or node.domain != "" or len(node.input) != 2:
            continue
        total = node.output[0]
        shortcut = reach.shortcut(*node.input)
        if graph.channels(total) is None or shortcut is None:
            continue
        after = closing.get(total)
        closes = (
            after is not None
            and total not in graph.outputs
            and set(graph.readers[total]) <= set(after.nodes)
            and graph.channels(after.result) == graph.channels(total)
        )
        output = after.result if after is not None and closes else total
        ends.append((module_path(node) or own_name(node), output, shortcut))
    names = distinct(name for name, _, _ in ends)
    return tuple(
        BlockEnd(name=name, output=output, shortcut=shortcut)
        for name, (_, output, shortcut) in zip(names, ends, strict=True)
    )


class _Reach:
    """What each tensor is computed from, as sets of nodes in the bits of an integer."""

    def __init__(self, graph: Graph, activations: set[int]) -> None:
        self._graph = graph
        self._bending = activations
        self._above: dict[str, int] = {}
        """All nodes that a tensor is computed by."""
        for index, node in enumerate(graph.nodes):
            above = 1 << index
            for name in node.input:
                above |= self._above.get(name, 0)
            self._above.update(dict.fromkeys(node.output, above))

    def shortcut(self, left: str, right: str) -> str | None:
        """Which of two operands is the shortcut of the other; None if neither is."""
        graph = self._graph
        if graph.channels(left) is None or graph.channels(left) != graph.channels(right):
            return None
        candidates = []
        for shortcut, branch in ((right, left), (left, right)):
            source = self._source(shortcut, branch)
            if source is not None and self._does_more(branch, source):
                candidates.append((source.convolutions, shortcut))
        return min(candidates, key=lambda candidate: candidate[0])[1] if candidates else None

    def _source(self, shortcut: str, branch: str) -> _Source | None:
        """The nearest tensor on the shortcut's way back that the branch is computed from too."""
        graph, name, convolutions = self._graph, shortcut, 0
        while True:
            producer = graph.producer.get(name)
            if producer is None:
                # An input of the graph: every branch comes from there.
                return _Source(name, convolutions)
            if self._above[branch] >> producer & 1:
                return _Source(name, convolutions)
            node = graph.nodes[producer]
            inputs = [tensor for tensor in node.input if tensor and not graph.is_constant(tensor)]
            if producer in self._bending or node.op_type not in SHORTCUT_OPERATORS or len(inputs) != 1:
                return None
            convolutions += node.op_type == "Conv"
            (name,) = inputs

    def _does_more(self, branch: str, source: _Source) -> bool:
        """Whether the way from the source to the branch's end has an activation, or more convolutions."""
        between = self._between(source.name, branch)
        convolutions = sum(self._graph.nodes[index].op_type == "Conv" for index in between)
        bends = any(index in self._bending for index in between)
        return convolutions > 0 and (bends or convolutions > source.convolutions)

    def _between(self, source: str, end: str) -> set[int]:
        """The nodes on all ways from one tensor to another."""
        # Nodes stand behind what they read: those of other blocks need not be looked at.
        start = self._graph.producer.get(source, -1) + 1
        stop = self._graph.producer.get(end, -1) + 1
        passed = {source}
        nodes = set()
        for index in range(start, stop):
            node = self._graph.nodes[index]
            if self._above[end] >> index & 1 and any(name in passed for name in node.input):
                passed.update(node.output)
                nodes.add(index)
        return nodes
