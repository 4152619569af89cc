"""Regularisers in training mode, and what they make of features."""

import math

import torch
from torch import Tensor, nn

from training.regularisers.catalogue import REGULARISERS
from training.regularisers.rate import Rate, find_rates, set_progress

RATE = 0.3
UNITS = (64, 16, 12, 12)


def build(name: str, rate: float = RATE, progress: float | None = None, **parameters: float) -> nn.Module:
    """In training mode, at the progress at which it is at its full rate unless told otherwise."""
    entry = REGULARISERS[name]
    module = entry.build(Rate(rate, entry.schedule), **{**entry.parameters, **parameters}).train()
    at_full = max((0.0, 1.0), key=entry.schedule)
    set_progress(find_rates(module), at_full if progress is None else progress)
    return module


def features(shape: tuple[int, ...] = UNITS, seed: int = 0) -> Tensor:
    """Positive and far from 0, so that what is dropped can be told."""
    return 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def draw(module: nn.Module, x: Tensor, times: int, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return torch.stack([module(x) for _ in range(times)])


def within(share: float, expected: float, draws: float) -> bool:
    """Whether a share of so many independent draws is within five standard errors."""
    return abs(share - expected) <= 5 * math.sqrt(expected * (1 - expected) / draws)
