"""ONNX graph → ONNX graph with the statistics outputs attached; its own nodes, weights and outputs stay as they are.

Every tap is *after* an activation: a tap between convolution and activation would break their fusion.
"""

from collections.abc import Sequence, Set
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models.manifest import ActivationSite, BlockEnd, ModelManifest, Saturation
from models.statistics import layout

_LARGEST = float(np.finfo(np.float32).max)


class InstrumentationError(ValueError):
    """The manifest names a tensor that the graph does not have."""


def instrument(graph: onnx.ModelProto, manifest: ModelManifest) -> onnx.ModelProto:
    """Return a copy of `graph` that also puts out the statistics of `models.statistics.layout`, per image.

    Raises `InstrumentationError` when the manifest and the graph do not belong together.
    """
    tensors = tapped_tensors(graph, manifest)
    instrumented = onnx.ModelProto()
    instrumented.CopyFrom(graph)
    types = element_types(graph)
    builder = _Reductions({tensor for tensor in tensors if types.get(tensor, TensorProto.FLOAT) != TensorProto.FLOAT})
    for site in manifest.sites:
        builder.add_site(site)
    for block in manifest.blocks:
        builder.add_block(block)
    builder.attach(instrumented.graph, manifest)
    return instrumented


def tapped_tensors(graph: onnx.ModelProto, manifest: ModelManifest) -> list[str]:
    """The tensors that statistics are computed from, each once: outputs of sites, ends and shortcuts of blocks.

    Raises `InstrumentationError` when the graph does not have one of them.
    """
    produced = {name for node in graph.graph.node for name in node.output} | {
        tensor.name for tensor in graph.graph.input
    }
    wanted = [site.tensor for site in manifest.sites]
    wanted += [tensor for block in manifest.blocks for tensor in (block.output, block.shortcut)]
    missing = sorted(set(wanted) - produced)
    if missing:
        raise InstrumentationError(f"the manifest names tensors that the graph does not have: {', '.join(missing)}")
    return list(dict.fromkeys(wanted))


def element_types(graph: onnx.ModelProto) -> dict[str, int]:
    """The `TensorProto.DataType` of every tensor whose type can be inferred."""
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    return {
        tensor.name: tensor.type.tensor_type.elem_type
        for tensor in (*inferred.value_info, *inferred.input, *inferred.output)
    }


class _Reductions:
    """Collects reduction nodes, and for each statistics output the tensors that it is made of."""

    def __init__(self, cast: Set[str]) -> None:
        """The tensors of `cast` are reduced as float32, which they are not: half precision would overflow."""
        self._cast = cast
        self._float32: dict[str, str] = {}
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._parts: dict[str, list[str]] = {}

    def add_site(self, site: ActivationSite) -> None:
        x = self._as_float32(site.tensor)
        # Global pooling, unlike Reduce*, stays in the blocked layout that the CPU's convolutions use.
        self._part(layout.MEAN, self._node("GlobalAveragePool", x))
        self._part(layout.MEAN_SQUARE, self._mean_square(x))
        active = self._node("GlobalAveragePool", self._positive(x))
        self._part(layout.ACTIVE, active)
        self._part(layout.MAXIMUM, self._node("GlobalMaxPool", x))
        if site.signed:
            self._part(layout.MINIMUM, self._node("Neg", self._node("GlobalMaxPool", self._node("Neg", x))))
        if site.saturation is not None:
            self._part(layout.SATURATED, self._saturated(site, x, site.saturation, active))

    def add_block(self, block: BlockEnd) -> None:
        output, shortcut = self._as_float32(block.output), self._as_float32(block.shortcut)
        change = self._node("Sub", output, shortcut)
        self._part(layout.BRANCH_ENERGY, self._channel_mean(self._mean_square(change)))
        self._part(layout.SHORTCUT_ENERGY, self._channel_mean(self._mean_square(shortcut)))

    def attach(self, graph: onnx.GraphProto, manifest: ModelManifest) -> None:
        """Concatenate the parts of each output and declare it."""
        batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param
        for output, width in layout.output_widths(manifest).items():
            stacked = self._node("Concat", *self._parts[output], axis=1)
            self._nodes.append(helper.make_node("Flatten", [stacked], [output], name=output, axis=1))
            graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, width]))
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._constants)

    def _saturated(self, site: ActivationSite, x: str, region: Saturation, active: str) -> str:
        if region.below == 0.0 and region.above is None and not site.signed:
            # A rectifier: what is not active is saturated, no further pass needed.
            return self._node("Sub", self._constant(1.0), active)
        bounds = {"LessOrEqual": region.below, "GreaterOrEqual": region.above}
        shares = [self._share(comparison, x, bound) for comparison, bound in bounds.items() if bound is not None]
        if not shares:
            # It never saturates: zeros of the right shape.
            return self._node("Mul", active, self._constant(0.0))
        return self._node("Sum", *shares)

    def _as_float32(self, tensor: str) -> str:
        if tensor not in self._cast:
            return tensor
        if tensor not in self._float32:
            self._float32[tensor] = self._node("Cast", tensor, to=TensorProto.FLOAT)
        return self._float32[tensor]

    def _share(self, comparison: str, x: str, bound: float) -> str:
        inside = self._node(comparison, x, self._constant(bound))
        return self._node("GlobalAveragePool", self._node("Cast", inside, to=TensorProto.FLOAT))

    def _positive(self, x: str) -> str:
        # clip(FLT_MAX·x, 0, 1) is 1[x > 0] for every normal float32, in one vectorised pass and the blocked layout;
        # Greater and Cast are two passes, and one of them leaves that layout.
        return self._node("HardSigmoid", x, alpha=_LARGEST, beta=0.0)

    def _mean_square(self, x: str) -> str:
        return self._node("GlobalAveragePool", self._node("Mul", x, x))

    def _channel_mean(self, x: str) -> str:
        return self._node("ReduceMean", x, self._constant_ints([1]), keepdims=1)

    def _part(self, output: str, tensor: str) -> None:
        self._parts.setdefault(output, []).append(tensor)

    def _node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"statistics.node{len(self._nodes)}.{op_type}"
        self._nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def _constant(self, value: float) -> str:
        return self._initializer(np.array(value, np.float32))

    def _constant_ints(self, values: Sequence[int]) -> str:
        return self._initializer(np.array(values, np.int64))

    def _initializer(self, array: np.ndarray) -> str:
        name = f"statistics.constant{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name
