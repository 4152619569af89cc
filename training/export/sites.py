"""Where the activations and the block ends are in an exported graph, and what the manifest says of them."""

import ast
import math
from collections.abc import Mapping

import onnx
import torch

from models.manifest import ActivationSite, BlockEnd
from models.opset import DOMAIN
from models.sites.names import SCOPES
from training.activations.entry import Activation, ActivationModule
from training.activations.meaning import normal_moments
from training.resnet.block import ResidualBlock

NETWORK = "network."
"""Prefix of every module's path in the classifier that wraps the network."""


def module_path(node: onnx.NodeProto) -> str:
    """Path of the innermost module that the node was traced in, without the wrapper's own name."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            # The last scope is the operation itself.
            return scopes(entry.value)[-2].removeprefix(NETWORK.rstrip(".")).removeprefix(".")
    return ""


def scopes(text: str) -> list[str]:
    """Paths of the modules a node was traced in, outermost first, then the operation: as the exporter writes them."""
    paths: list[str] = ast.literal_eval(text) if text else []
    return paths


def find_sites(
    graph: onnx.GraphProto, activation: str, entry: Activation, modules: Mapping[str, torch.nn.Module]
) -> tuple[ActivationSite, ...]:
    """The activations of an exported graph, each the one node of its module."""
    found = {
        name.removeprefix(NETWORK): module for name, module in modules.items() if isinstance(module, ActivationModule)
    }
    nodes = [node for node in graph.node if node.domain == DOMAIN]
    assert sorted(node.name for node in nodes) == sorted(found), "one node for each activation module"
    return tuple(describe_site(node.name, node.output[0], activation, entry, found[node.name]) for node in nodes)


def describe_site(
    name: str, tensor: str, activation: str, entry: Activation, module: ActivationModule
) -> ActivationSite:
    """What the manifest says of one site: where it is, and what its output means with the parameters as they are."""
    moments = normal_moments(entry, module)
    low, high = (bound if math.isfinite(bound) else None for bound in module.output_range)
    return ActivationSite(
        name=name,
        activation=activation,
        tensor=tensor,
        channels=module.output_channels(),
        signed=module.signed,
        saturation=module.saturation,
        output_range=(low, high),
        zero_is_dead=module.zero_is_dead,
        normal_mean=moments.mean if moments else None,
        normal_variance=moments.variance if moments else None,
    )


def find_blocks(graph: onnx.GraphProto, modules: Mapping[str, torch.nn.Module]) -> tuple[BlockEnd, ...]:
    """Each block's sum is the one Add in its own scope; what leaves the block is the sum or the activation after it.

    An activation that changes the number of channels cannot be compared with the shortcut: then it is the sum. So it
    is where a normalisation follows the sum. A block without a shortcut has no such end.
    """
    # One pass over the graph: a block's scan of all nodes would take the square of the depth.
    sums: dict[str, list[onnx.NodeProto]] = {}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "Add":
            sums.setdefault(module_path(node), []).append(node)
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node)
    blocks = []
    for path, module in modules.items():
        if not isinstance(module, ResidualBlock) or module.downsample is None:
            continue
        name = path.removeprefix(NETWORK)
        (add,) = sums[name]
        after = readers.get(add.output[0], [])
        closing = [node for node in after if node.domain == DOMAIN and node.name.startswith(f"{name}.")]
        same = closing and _keeps_channels(modules[NETWORK + closing[0].name])
        output = closing[0].output[0] if same else add.output[0]
        blocks.append(BlockEnd(name=name, output=output, shortcut=add.input[1]))
    return tuple(blocks)


def _keeps_channels(module: torch.nn.Module) -> bool:
    return isinstance(module, ActivationModule) and module.output_channels() == module.channels
