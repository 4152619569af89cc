"""Deep networks exported in time: of blocks that are alike a few are traced, and their nodes repeated for the others.

A stage is cut to its first blocks before it is traced. Each of them is then a list of nodes, and what the last of them
reads is one of its own weights, what it or its neighbours before it put out, or something that all of them read. The
other blocks are made after that pattern, with weights of their own, before anything is optimised: what comes out is
the graph of the whole network, node by node.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import onnx_ir as ir
from torch import Tensor, nn

from models.opset import DOMAIN
from models.sites.names import SCOPES
from training.activations.entry import ActivationModule
from training.export.sites import scopes
from training.regularisers.rate import Rate
from training.resnet.block import ResidualBlock

TRACED = 3
"""Blocks of a run that are traced: two to compare, and one before them that both may read."""

# Of a module: what is compared by itself, and the node of an activation, which depends on learned values.
_APART = {"_parameters", "_buffers", "_modules", "_frozen"}


class RepetitionError(Exception):
    """The nodes of the traced blocks follow no pattern that others could be made after."""


@dataclass(frozen=True)
class Run:
    """More than `TRACED` neighbours in a stage that differ by the values of their weights alone."""

    stage: str
    """Its path."""
    blocks: tuple[str, ...]
    """Their paths, in order."""


@dataclass(frozen=True)
class _Weight:
    """One of the block's own, by its name in it."""

    name: str


@dataclass(frozen=True)
class _Made:
    """What a node put out, by their numbers, so many blocks before."""

    back: int
    node: int
    output: int


# Anything else is the same for all blocks.
_Source = _Weight | _Made | ir.Value | None


def find_runs(network: nn.Module) -> list[Run]:
    """All runs of a network in evaluation mode, with its activations frozen."""
    found = []
    for path, stage in network.named_modules():
        if not isinstance(stage, nn.Sequential):
            continue
        runs: list[list[str]] = []
        before: nn.Module | None = None
        for name, block in stage.named_children():
            if not (before is not None and isinstance(block, ResidualBlock) and _alike(before, block)):
                runs.append([])
            runs[-1].append(f"{path}.{name}")
            before = block
        found += [Run(path, tuple(run)) for run in runs if len(run) > TRACED]
    return found


@contextmanager
def shortened(network: nn.Module, runs: Sequence[Run]) -> Iterator[None]:
    """Leave all but the first blocks of each run out of the network, for as long as the context lasts."""
    whole = {run.stage: network.get_submodule(run.stage) for run in runs}
    left_out = {block for run in runs for block in run.blocks[TRACED:]}
    for path, stage in whole.items():
        kept = [(name, block) for name, block in stage.named_children() if f"{path}.{name}" not in left_out]
        network.set_submodule(path, type(stage)(OrderedDict(kept)).eval())
    try:
        yield
    finally:
        for path, stage in whole.items():
            network.set_submodule(path, stage)


def lengthen(graph: ir.Graph, network: nn.Module, runs: Sequence[Run]) -> None:
    """Put the blocks that were left out of a `shortened` network into its graph, which is not optimised yet.

    Raises `RepetitionError` when they cannot be made after those that are there; the graph is of no use then.
    """
    members: dict[str, list[ir.Node]] = {block: [] for run in runs for block in run.blocks[:TRACED]}
    for node in graph:
        # A node that reads nothing is a constant, which blocks share: it belongs to none.
        for block in members.keys() & set(scopes(node.metadata_props.get(SCOPES, ""))) if node.inputs else ():
            members[block].append(node)
    weights = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for run in runs:
        pattern = _Pattern(run.blocks[:TRACED], [members[block] for block in run.blocks[:TRACED]])
        pattern.repeat(graph, run.blocks[TRACED:], network, weights)


class _Pattern:
    """How each of some neighbours is made after those before it."""

    def __init__(self, paths: Sequence[str], blocks: Sequence[Sequence[ir.Node]]) -> None:
        self._path = paths[-1]
        self._nodes = blocks[-1]
        self._outputs = [[node.outputs for node in block] for block in blocks]
        self._places = {
            output: (block, index, number)
            for block, nodes in enumerate(self._outputs)
            for index, outputs in enumerate(nodes)
            for number, output in enumerate(outputs)
        }
        self._sources = [
            [self._source(len(blocks) - 1, paths[-1], value) for value in node.inputs] for node in blocks[-1]
        ]
        self._readers = self._outer_readers({node for block in blocks for node in block})
        before = [[self._source(len(blocks) - 2, paths[-2], value) for value in node.inputs] for node in blocks[-2]]
        self._check(blocks, before)

    def repeat(self, graph: ir.Graph, paths: Sequence[str], network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Put blocks at `paths` behind those that are there; what read the last of those reads the new last."""
        last = self._nodes[-1]
        for path in paths:
            made: list[Sequence[ir.Value]] = []
            self._outputs.append(made)
            for node, sources in zip(self._nodes, self._sources, strict=True):
                inputs = [self._found(source, path, graph, weights) for source in sources]
                copied = self._copy(node, inputs, path, network)
                graph.insert_after(last, copied)
                made.append(copied.outputs)
                last = copied
        for reader, argument, (block, index, output) in self._readers:
            reader.replace_input_with(argument, self._outputs[block + len(paths)][index][output])

    def _source(self, block: int, path: str, value: ir.Value | None) -> _Source:
        if value in self._places:
            made_by, node, output = self._places[value]
            return _Made(block - made_by, node, output)
        if value is not None and value.is_initializer() and (value.name or "").startswith(f"{path}."):
            return _Weight((value.name or "").removeprefix(f"{path}."))
        return value

    def _outer_readers(self, members: set[ir.Node]) -> list[tuple[ir.Node, int, tuple[int, int, int]]]:
        readers = []
        for value, place in self._places.items():
            outer = [(use.node, use.idx, place) for use in value.uses() if use.node not in members]
            if outer and (place[0] == 0 or value.is_graph_output()):
                raise RepetitionError(f"{value.name} of {self._path}'s stage is read elsewhere")
            readers += outer
        return readers

    def _check(self, blocks: Sequence[Sequence[ir.Node]], before: Sequence[Sequence[_Source]]) -> None:
        """The last two blocks read the same things; what one of them reads of the first, the other reads before it."""
        if len({tuple(_operation(node) for node in block) for block in blocks}) != 1:
            raise RepetitionError(f"{self._path} and its neighbours were traced differently")
        for node, sources, others in zip(self._nodes, self._sources, before, strict=True):
            for source, other in zip(sources, others, strict=True):
                reaches = isinstance(source, _Made) and source.back == len(blocks) - 1 and isinstance(other, ir.Value)
                if not _same(source, other) and not reaches:
                    raise RepetitionError(f"{node.name} of {self._path} reads something else than its neighbours'")

    def _found(self, source: _Source, path: str, graph: ir.Graph, weights: Mapping[str, Tensor]) -> ir.Value | None:
        match source:
            case _Made():
                return self._outputs[-1 - source.back][source.node][source.output]
            case _Weight():
                return _initializer(graph, f"{path}.{source.name}", weights)
            case _:
                return source

    def _copy(self, node: ir.Node, inputs: Sequence[ir.Value | None], path: str, network: nn.Module) -> ir.Node:
        inside = f"{self._path}."
        scope = [
            path + part.removeprefix(self._path) if part == self._path or part.startswith(inside) else part
            for part in scopes(node.metadata_props[SCOPES])
        ]
        operator = node.op_type
        attributes: Mapping[str, ir.Attr | float] = node.attributes
        if node.domain == DOMAIN:
            # Learned values may be attributes, and decide on the body.
            activation = network.get_submodule(scope[-2])
            assert isinstance(activation, ActivationModule)
            operator, attributes = activation.frozen_node().body.name, activation.frozen_node().attributes
        return ir.node(
            operator,
            inputs,
            attributes,
            domain=node.domain,
            overload=node.overload,
            version=node.version,
            outputs=[
                ir.Value(name=f"{path}.{o.name}", type=o.type, shape=o.shape and o.shape.copy()) for o in node.outputs
            ],
            name=f"{path}.{node.name}",
            metadata_props={SCOPES: repr(scope)},
        )


def _same(one: _Source, other: _Source) -> bool:
    # PyTorch's values must not be compared by ==, which makes a node of it.
    if isinstance(one, ir.Value) and isinstance(other, ir.Value):
        return one is other or (_constant(one) is not None and _constant(one) == _constant(other))
    return not isinstance(one, ir.Value) and not isinstance(other, ir.Value) and one == other


def _constant(value: ir.Value) -> tuple[object, ...] | None:
    node = value.producer()
    return _operation(node) if node is not None and not node.inputs else None


def _operation(node: ir.Node) -> tuple[object, ...]:
    """What a node does; which activation it is depends on learned values."""
    if node.domain == DOMAIN:
        return (DOMAIN,)
    attributes = sorted((name, ir.to_proto(value).SerializeToString()) for name, value in node.attributes.items())
    return (*node.op_identifier(), tuple(attributes), len(node.outputs))


def _initializer(graph: ir.Graph, name: str, weights: Mapping[str, Tensor]) -> ir.Value:
    if name not in graph.initializers:
        if name not in weights:
            raise RepetitionError(f"there is no weight {name}")
        tensor = ir.tensor(weights[name].detach().numpy(), name=name)
        graph.register_initializer(ir.val(name, const_value=tensor))
    return graph.initializers[name]


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules compute the same in evaluation mode, but for the values of their weights."""
    ours, theirs = dict(one.named_modules()), dict(other.named_modules())
    if ours.keys() != theirs.keys():
        return False
    try:
        return all(_described(ours[name]) == _described(theirs[name]) for name in ours)
    except (RuntimeError, ValueError):
        # Tensors and arrays that are no parameters, of which it is not one truth whether they are equal.
        return False


def _described(module: nn.Module) -> dict[str, object]:
    """All that a module holds: of weights their shapes, and nothing of a regulariser's rate, which is for training."""
    tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    held = {k: v for k, v in vars(module).items() if k not in _APART and not isinstance(v, Rate)}
    return {**held, "": type(module), "shapes": {name: (t.shape, t.dtype) for name, t in tensors.items()}}
