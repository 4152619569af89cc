"""The linear layer that makes logits from the channel means of the last activation, read from the graph."""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from models.manifest import ModelManifest


@dataclass(frozen=True)
class LinearHead:
    """logits = features · weights + bias, features the channel means of the last activation site."""

    weights: NDArray[np.float64]
    """features × classes"""
    bias: NDArray[np.float64]

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """images × features → images × classes."""
        product: NDArray[np.float64] = features.astype(np.float64) @ self.weights + self.bias
        return product


def linear_head(graph: onnx.ModelProto, manifest: ModelManifest) -> LinearHead | None:
    """The graph's last layer, if it is linear and as wide as the last site; whether it sees the site's means is not
    checked here, but by its logits.
    """
    logits = manifest.logits.name
    node = next((node for node in graph.graph.node if logits in node.output), None)
    if node is None or node.op_type != "Gemm":
        return None
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    if not all(name in constants for name in node.input[1:]) or _attribute(node, "transA", 0):
        return None
    weights, *rest = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[1:])
    if _attribute(node, "transB", 0):
        weights = weights.T
    weights = weights * _attribute(node, "alpha", 1.0)
    if weights.shape != (manifest.sites[-1].channels, len(manifest.class_names)):
        return None
    bias = rest[0].ravel() * _attribute(node, "beta", 1.0) if rest else np.zeros(1)
    return LinearHead(weights, np.broadcast_to(bias, weights.shape[1:]))


def _attribute(node: NodeProto, name: str, default: float) -> float:
    found = [attribute for attribute in node.attribute if attribute.name == name]
    return float(onnx.helper.get_attribute_value(found[0])) if found else default
