"""Muon for the matrices inside of a network, AdamW for all else."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.optimisers.groups import Group


class MuonWithAdamW(torch.optim.Optimizer):
    """Orthogonalised momentum for `hidden` parameters (Jordan 2024), AdamW for the others.

    A convolution is the matrix outputs × (inputs · kernel). Updates have the size of AdamW's (`match_rms_adamw`,
    Liu 2025), so one learning rate and one decay, which is decoupled, suit both.
    """

    def __init__(self, groups: Sequence[Group], hidden: set[Tensor], learning_rate: float, momentum: float) -> None:
        split = [(group, inside) for group in groups for inside in (True, False)]
        chosen = [
            (inside, {"params": parameters, "weight_decay": group.weight_decay, "share": group.share})
            for group, inside in split
            if (parameters := [each for each in group.parameters if (each in hidden) == inside])
        ]
        super().__init__([group for _, group in chosen], {"lr": learning_rate})
        pairs = [(inside, group) for (inside, _), group in zip(chosen, self.param_groups, strict=True)]
        self._inner = [group for inside, group in pairs if inside]
        self._outer = [group for inside, group in pairs if not inside]
        self._matrices = [[as_matrix(each) for each in group["params"]] for group in self._inner]
        matrices = [
            {"params": each, "weight_decay": group["weight_decay"]}
            for each, group in zip(self._matrices, self._inner, strict=True)
        ]
        others = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in self._outer]
        # Where stages are frozen there may be nothing left of one kind, and neither takes nothing.
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if matrices:
            self._parts["muon"] = torch.optim.Muon(
                matrices, lr=learning_rate, momentum=momentum, adjust_lr_fn="match_rms_adamw"
            )
        if others:
            self._parts["adamw"] = torch.optim.AdamW(others, lr=learning_rate)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each at the rates of `param_groups`."""
        assert closure is None
        groups = {"muon": self._inner, "adamw": self._outer}
        for name, optimiser in self._parts.items():
            for theirs, ours in zip(optimiser.param_groups, groups[name], strict=True):
                theirs["lr"], theirs["weight_decay"] = ours["lr"], ours["weight_decay"]
        for matrices, group in zip(self._matrices, self._inner, strict=True):
            for matrix, parameter in zip(matrices, group["params"], strict=True):
                matrix.grad = None if parameter.grad is None else as_matrix(parameter.grad, parameter)
        for optimiser in self._parts.values():
            optimiser.step()
        return None

    def state_dict(self) -> dict[str, Any]:
        return {name: optimiser.state_dict() for name, optimiser in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, optimiser in self._parts.items():
            optimiser.load_state_dict(state_dict[name])


def as_matrix(values: Tensor, like: Tensor | None = None) -> Tensor:
    """Outputs × all else, in the memory of `values`; columns are in the order in which they lie there.

    Their order does not matter: Q·P is orthogonal where Q is, for any permutation P. Gradients are arranged as `like`.
    """
    model = values if like is None else like
    values = values.detach()
    if model.ndim == 4 and not model.is_contiguous():
        return values.permute(0, 2, 3, 1).reshape(len(values), -1)
    return values.reshape(len(values), -1)


def hidden_matrices(network: nn.Module) -> set[Tensor]:
    """Weights of convolutions and linear layers but the first, which reads pixels, and the last, which gives logits."""
    found = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return set(found[1:-1])
