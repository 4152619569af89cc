"""A view of an ONNX graph: who makes each tensor, who reads it, its sizes, and which tensors are feature maps."""

from collections import defaultdict
from collections.abc import Iterable

import onnx
from onnx import NodeProto, TensorProto

from models.opset import DOMAIN

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
POOLING = {
    "AveragePool",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "LpPool",
    "MaxPool",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
}
TO_CHANNELS_LAST = (0, 2, 3, 1)


class Graph:
    """What one has to know of a graph to look for structures in it. Nodes are numbered in their topological order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.producer = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            for name in data_inputs(node):
                self.readers[name].append(index)
        self.outputs = {tensor.name for tensor in model.graph.output}
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._types = _types(model)
        self._constants = set(self._weights)
        for node in self.nodes:
            if self._constants.issuperset(data_inputs(node)):
                self._constants.update(node.output)
        self._pooled: set[str] = set()
        self._channels_last: set[str] = set()
        self._follow()

    def weight(self, name: str) -> TensorProto | None:
        """The stored tensor of this name, if it is one."""
        return self._weights.get(name)

    def is_constant(self, name: str) -> bool:
        """Whether the tensor is stored in the graph, or computed from nothing but such tensors."""
        return name in self._constants

    def sizes(self, name: str) -> tuple[int, ...] | None:
        """Sizes of a tensor, 0 for one that is not fixed; None where not even their number is known."""
        if name in self._weights:
            return tuple(self._weights[name].dims)
        return self._types[name][1] if name in self._types else None

    def channels(self, name: str) -> int | None:
        """C of a feature map N×C×H×W of floats; None for every other tensor.

        A map that was pooled to 1×1 is none (what follows it is a squeeze, a gate or the classifier's head), nor one
        that was turned to N×H×W×C.
        """
        sizes = self.sizes(name)
        if sizes is None or len(sizes) != 4 or sizes[1] < 1 or self.is_constant(name):
            return None
        if self._types[name][0] not in FLOATS:
            return None
        return None if name in self._pooled or name in self._channels_last else sizes[1]

    def is_half(self, name: str) -> bool:
        """Whether a tensor is float16."""
        return name in self._types and self._types[name][0] == TensorProto.FLOAT16

    def _follow(self) -> None:
        for node in self.nodes:
            data = [name for name in node.input if name and not self.is_constant(name)]
            pooled = bool(data) and all(name in self._pooled for name in data)
            channels_last = any(name in self._channels_last for name in data)
            if node.op_type in POOLING and node.domain == "":
                pooled = pooled or self._shrinks_to_a_point(node)
            elif node.op_type == "Conv":
                channels_last = False
            elif node.op_type == "Transpose":
                order = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), ())
                channels_last = order == TO_CHANNELS_LAST
            self._pooled.update(node.output if pooled else ())
            self._channels_last.update(node.output if channels_last else ())

    def _shrinks_to_a_point(self, node: NodeProto) -> bool:
        before, after = self.sizes(node.input[0]), self.sizes(node.output[0])
        if node.op_type.startswith("Global"):
            return True
        if before is None or after is None or len(before) != 4 or len(after) != 4:
            return False
        return after[2:] == (1, 1) and before[2:] != (1, 1)


def data_inputs(node: NodeProto) -> list[str]:
    """Names that a node reads, those that its subgraphs take from outside included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            own = {name for inner in graph.node for name in inner.output}
            names += [name for inner in graph.node for name in data_inputs(inner) if name not in own]
            names += [tensor.name for tensor in graph.output if tensor.name not in own]
    return names


def is_own(node: NodeProto) -> bool:
    """Whether a node is of this project's domain: there each node is one activation."""
    return node.domain == DOMAIN


def _types(model: onnx.ModelProto) -> dict[str, tuple[int, tuple[int, ...]]]:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {tensor.name: typed for tensor, typed in _typed((*inferred.input, *inferred.value_info, *inferred.output))}


def _typed(
    tensors: Iterable[onnx.ValueInfoProto],
) -> Iterable[tuple[onnx.ValueInfoProto, tuple[int, tuple[int, ...]]]]:
    for tensor in tensors:
        kind = tensor.type.tensor_type
        if kind.HasField("shape"):
            yield tensor, (kind.elem_type, tuple(size.dim_value for size in kind.shape.dim))
