"""What is drawn of a residual block: its parts, read off one that is built, and what a merge makes of two tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from training.activations.catalogue import find_activation
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.block import Extras, Junction, ResidualBlock
from training.resnet.branches import convolution_3x3
from training.resnet.merges import Merge, find_merge
from training.resnet.shortcuts import projection_shortcut

WORDS = {"conv": "3×3 convolution", "bn": "BN", "act": "activation"}
"""Kinds of parts, as modules are named."""
WIDTH = 4
BRANCH, SHORTCUT = "F", "x"


@dataclass(frozen=True)
class BlockDrawing:
    """Boxes from the top down, on the branch, on the shortcut and behind the sum."""

    branch: tuple[str, ...]
    shortcut: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()
    joins: bool = True
    """Whether there is a shortcut."""


def draw_arrangement(key: str) -> BlockDrawing:
    """A block of two convolutions whose shape does not change."""
    activation = find_activation("relu")
    convolutions = [convolution_3x3(WIDTH, WIDTH) for _ in range(2)]
    block = ResidualBlock(
        WIDTH, convolutions, Junction(nn.Identity()), ARRANGEMENTS[key], activation, Extras(nn.BatchNorm2d)
    )
    return BlockDrawing(_words(block.steps), closing=_words(block.closing))


def draw_merge(key: str) -> BlockDrawing:
    """F is the whole branch; boxes say what is added, with parameters at their defaults."""
    merge, parameters = find_merge(key, {})
    branch, shortcut = merged(merge, parameters)
    projection = ("1×1 convolution", "BN") if merge.projects else ()
    if merge.projects:
        parts = [type(part).__name__ for part in projection_shortcut(WIDTH, WIDTH, 1, nn.BatchNorm2d)]
        assert parts == ["Conv2d", "BatchNorm2d"]
    return BlockDrawing(
        (BRANCH, *([branch] if branch != BRANCH else [])),
        (*projection, *([shortcut] if shortcut != SHORTCUT else [])),
        joins=merge.joins,
    )


def merged(merge: Merge, parameters: Mapping[str, float]) -> tuple[str, str]:
    """The formulas of the two that are added, read off the module's own operations."""
    if merge.build is None:
        return BRANCH, SHORTCUT
    module = merge.build(WIDTH, parameters)
    graph = fx.symbolic_trace(module).graph
    terms: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op == "output":
            branch, shortcut = (terms[each] for each in node.args[0])
            return branch, shortcut
        terms[node] = _term(node, terms, module)
    raise AssertionError("a graph ends with its output")


def _term(node: fx.Node, terms: Mapping[fx.Node, str], module: nn.Module) -> str:
    """The formula of one node."""
    inputs = [terms[each] if isinstance(each, fx.Node) else f"{each:g}" for each in node.args]
    if node.op == "placeholder":
        return BRANCH if node.name == "branch" else SHORTCUT
    if node.op == "call_module":
        part = module.get_submodule(str(node.target))
        if isinstance(part, nn.Conv2d):
            return f"W·{inputs[0]} + b"
        assert isinstance(part, nn.Dropout)
        return f"dropout({inputs[0]})"
    if node.target is torch.sigmoid:
        return f"σ({inputs[0]})"
    name = getattr(node.target, "__name__", "")
    if name == "mul":
        return " · ".join(f"({each})" if " − " in each else each for each in inputs)
    assert name == "sub", f"cannot be drawn yet: {node.target}"
    return f"{inputs[0]} − {inputs[1]}"


def _words(names: list[str]) -> tuple[str, ...]:
    return tuple(WORDS[name.rstrip("0123456789")] for name in names)
