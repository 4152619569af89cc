"""Stages that can be run backwards: two streams of channels, of which each block changes one (RevNet, i-RevNet).

A block with the branch F takes the streams (a, b) to (L(b), L(a) + F(b)), L its shortcut. Two of them are the unit of
Gomez 2017: y₁ = x₁ + F(x₂), y₂ = x₂ + G(y₁). Where L is the identity or `SpaceToDepth` (Jacobsen 2018), both streams
follow from what leaves the block, (p, q): b = L⁻¹(p), a = L⁻¹(q − F(b)). So training need not keep what was between.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.block import ResidualBlock
from training.resnet.shortcuts import SpaceToDepth

Streams = tuple[Tensor, Tensor]


class ReversibleStage(nn.Sequential):
    """Blocks on two streams, which are the halves of the channels: N×2C×H×W in, N×2C′×H/s×W/s out.

    In training mode the memory of a step does not grow with the number of blocks, at the price of running each branch
    once more. Otherwise, and with `recompute` off, it is run like any other stage.
    """

    recompute = True

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        kept, recomputed = self._split()
        for block in kept:
            a, b = couple(block, a, b)
        if recomputed:
            parameters = [p for block in recomputed for p in block.parameters() if p.requires_grad]
            # Sums in half precision would lose what the inverse is to find again.
            wide = torch.promote_types(x.dtype, torch.float32)
            a, b = a.to(wide), b.to(wide)
            a, b = _Recomputed.apply(recomputed, a, b, *parameters)  # type: ignore[no-untyped-call]
        return torch.cat([a, b], dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """What the stage was given, in evaluation mode; raises `ValueError` if a block of it loses something."""
        for name, block in self.named_children():
            if not _invertible(block):
                kind = type(block.downsample).__name__
                raise ValueError(
                    f"block {name} of this stage cannot be inverted: its shortcut is a {kind}, which drops positions; "
                    "networks with space_to_depth shortcuts can be inverted as a whole"
                )
        a, b = y.chunk(2, dim=1)
        for block in reversed(self._blocks()):
            a, b = uncouple(block, a, b)
        return torch.cat([a, b], dim=1)

    def _blocks(self) -> list[ResidualBlock]:
        return [block for block in self if isinstance(block, ResidualBlock)]

    def _split(self) -> tuple[list[ResidualBlock], list[ResidualBlock]]:
        """The blocks whose activations are kept, and those after the last that loses something.

        The first is always kept: channels that a stem filled with zeros must stay exactly that, for the kink of a ReLU
        is there.
        """
        blocks = self._blocks()
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return blocks, []
        start = max((index + 1 for index, block in enumerate(blocks) if not _invertible(block)), default=1)
        return blocks[:start], blocks[start:]


def couple(block: ResidualBlock, a: Tensor, b: Tensor) -> Streams:
    """(a, b) → (L(b), L(a) + F(b))."""
    assert block.downsample is not None
    return block.downsample(b), block(b, a)


def uncouple(block: ResidualBlock, p: Tensor, q: Tensor) -> Streams:
    """The inverse of `couple`."""
    b = _unlift(block, p)
    return _unlift(block, q - block.branch(b)[0]), b


def invert(network: nn.Module, features: Tensor) -> Tensor:
    """The input N×C×H×W of a network whose last stage put out `features`, in evaluation mode.

    Raises `ValueError` when a part before that cannot be inverted, naming it.
    """
    x = features
    for name, part in reversed(_body(network)):
        inverse: Callable[[Tensor], Tensor] | None = getattr(part, "inverse", None)
        if inverse is None:
            raise ValueError(f"{name} ({type(part).__name__}) cannot be inverted: i-RevNets have no such part")
        x = inverse(x)
    return x


def features(network: nn.Module, images: Tensor) -> Tensor:
    """What the last stage puts out, which `invert` takes."""
    x = images
    for _, part in _body(network):
        x = part(x)
    return x


def check_reversible(network: str, arrangement: str, shortcut: str, stem: str) -> None:
    """Raise `ValueError` for parts that keep a reversible network from being reversible."""
    parts = ARRANGEMENTS[arrangement]
    if parts.after_sum:
        raise ValueError(
            f"network {network!r} adds and subtracts the same branch, so nothing may follow the sum: arrangement "
            f"{arrangement!r} does not go with it, full_preactivation does"
        )
    if stem == "padding" and "bn" not in parts.before:
        raise ValueError(
            f"the stem of {network!r} is nothing but zeros beside the image, so that it can be inverted: arrangement "
            f"{arrangement!r}, which normalises there, does not go with it, full_preactivation does"
        )
    if shortcut != "identity":
        raise ValueError(
            f"in {network!r} what goes around a branch must be found again by subtraction: shortcut {shortcut!r} does "
            "not go with it, identity does"
        )


def _body(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts up to the last reversible stage, in their order."""
    parts = list(network.named_children())
    last = max((index for index, (_, part) in enumerate(parts) if isinstance(part, ReversibleStage)), default=None)
    if last is None:
        raise ValueError("the network has no reversible stage: only RevNets and i-RevNets can be inverted")
    return parts[: last + 1]


def _invertible(block: nn.Module) -> bool:
    return isinstance(block.downsample, nn.Identity | SpaceToDepth)


def _unlift(block: ResidualBlock, x: Tensor) -> Tensor:
    """L⁻¹, which is also what a gradient goes through: L only changes places."""
    return block.downsample.inverse(x) if isinstance(block.downsample, SpaceToDepth) else x


class _Recomputed(torch.autograd.Function):
    """Couplings of which only what leaves the last is kept."""

    @staticmethod
    def forward(ctx: Any, blocks: Sequence[ResidualBlock], a: Tensor, b: Tensor, *parameters: Tensor) -> Streams:
        ctx.blocks, ctx.parameters, ctx.draws, ctx.precision = blocks, parameters, [], _autocast_of(b)
        for block in blocks:
            ctx.draws.append(_random_state(b))
            a, b = couple(block, a, b)
        ctx.save_for_backward(a, b)
        return a, b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_p: Tensor, grad_q: Tensor) -> tuple[Tensor | None, ...]:
        p, q = ctx.saved_tensors
        found: dict[Tensor, Tensor] = {}
        for block, draws in zip(reversed(ctx.blocks), reversed(ctx.draws), strict=True):
            b = _unlift(block, p).detach().requires_grad_()
            with _as_before(block, draws, b), torch.enable_grad(), torch.autocast(b.device.type, *ctx.precision):
                branch, _ = block.branch(b)
            p, q = _unlift(block, q - branch.detach()), b.detach()
            wanted = [parameter for parameter in block.parameters() if parameter.requires_grad]
            grad_b, *grads = torch.autograd.grad(branch, [b, *wanted], grad_q.to(branch.dtype), allow_unused=True)
            found.update((w, g) for w, g in zip(wanted, grads, strict=True) if g is not None)
            grad_p, grad_q = _unlift(block, grad_q), _unlift(block, grad_p) + (0 if grad_b is None else grad_b)
        return None, grad_p, grad_q, *(found.get(parameter) for parameter in ctx.parameters)


def _autocast_of(x: Tensor) -> tuple[torch.dtype, bool]:
    """In what numbers layers compute on the device of `x`, and whether they do: a backward pass is outside of that."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):  # where only shapes are computed
        return x.dtype, False
    return torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)


def _random_state(x: Tensor) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(x.device) if x.is_cuda else None


@contextmanager
def _as_before(block: nn.Module, draws: tuple[Tensor, Tensor | None], x: Tensor) -> Iterator[None]:
    """Draw the same random numbers again, and leave the running statistics alone: they were updated already."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    cpu, cuda = draws
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, x.device)
        for norm in norms:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True
