"""The optimisers, and how to add one: a function that builds it, and a line in the catalogue."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from training.optimisers.groups import Group
from training.optimisers.muon import MuonWithAdamW, hidden_matrices
from training.recipes.recipe import Recipe


@dataclass(frozen=True)
class Entry:
    """An optimiser, and numbers that suit it where a recipe for another one does not say."""

    build: Callable[[Sequence[Group], nn.Module, Recipe], torch.optim.Optimizer]
    """Each of its `param_groups` has the `share` of the learning rate that its parameters learn at."""
    learning_rate: float
    weight_decay: float
    source: str


def _sgd(groups: Sequence[Group], _: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    # All parameters at once, which PyTorch does by itself on GPUs alone: the same numbers in two thirds of the time.
    return torch.optim.SGD(
        _split(groups), lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov, foreach=True
    )


def _adamw(groups: Sequence[Group], _: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(_split(groups), lr=recipe.learning_rate, betas=(recipe.momentum, 0.999))


def _muon(groups: Sequence[Group], network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    return MuonWithAdamW(groups, hidden_matrices(network), recipe.learning_rate, recipe.momentum)


def _split(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [{"params": group.parameters, "weight_decay": group.weight_decay, "share": group.share} for group in groups]


OPTIMISERS: dict[str, Entry] = {
    "sgd": Entry(_sgd, 0.1, 5e-4, "Nesterov momentum, Sutskever 2013; without: Polyak 1964"),
    "adamw": Entry(_adamw, 3e-3, 0.05, "Loshchilov & Hutter 2019"),
    "muon": Entry(_muon, 3e-3, 0.05, "Jordan 2024; sizes of updates: Liu 2025"),
}


def find_optimiser(name: str) -> Entry:
    """Raises `ValueError` for an unknown one."""
    if name not in OPTIMISERS:
        raise ValueError(f"unknown optimiser {name!r}; choose from {', '.join(OPTIMISERS)}")
    return OPTIMISERS[name]
