"""The weights that are kept: an average over the steps, over the epochs, or the last ones."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Kind = Literal["ema", "swa", "none"]
Pairs = tuple[list[Tensor], list[Tensor]]
"""Averages, and what is averaged."""


class Averaging:
    """Parameters and buffers of `model`, averaged into `average`.

    - `ema`: avg ← d·avg + (1 − d)·weights after each step, d = exp(−1/`steps`); the last weights with 0 steps. Of
      buffers that are whole numbers, the last ones.
    - `swa`: the mean of the weights at the ends of the epochs after the share `start` of training, the last weights
      until then (Izmailov 2018; running statistics are averaged too, where the paper measures them anew).
    - `none`: the last weights.
    """

    def __init__(self, model: nn.Module, kind: Kind, steps: float, start: float) -> None:
        self.kind = "none" if kind == "ema" and steps <= 0 else kind
        self.start = start
        decay = math.exp(-1 / steps) if steps > 0 else 0.0
        average = None if kind == "swa" else get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.decay = decay
        self._pairs: tuple[Pairs, Pairs] | None = None

    def after_step(self, model: nn.Module) -> None:
        """Take in the weights of a step."""
        if self.kind != "ema":
            return
        if self._pairs is None:
            self._pairs = _pair(self.average.module, model)
            if not self.average.n_averaged:
                # The first one is copied.
                self.average.update_parameters(model)
                return
        self._lean(*self._pairs)

    @torch.no_grad()
    def _lean(self, real: "Pairs", whole: "Pairs") -> None:
        """As `AveragedModel` does, without its walk through all modules and its wait for the device in each step."""
        torch._foreach_lerp_(*real, 1 - self.decay)
        if whole[0]:
            torch._foreach_copy_(*whole)
        self.average.n_averaged += 1

    def after_epoch(self, model: nn.Module, done: float) -> None:
        """Take in the weights of an epoch, after the share `done` of training."""
        if self.kind == "ema":
            return
        last_alone = self.kind == "none" or done <= self.start
        if last_alone:
            self.average.n_averaged.zero_()
        # The first one is copied.
        self.average.update_parameters(model)
        if last_alone:
            self.average.n_averaged.zero_()

    def catch_up(self, model: nn.Module) -> None:
        """Within an epoch: the last weights, where those are what is kept."""
        if self.kind == "none":
            self.after_epoch(model, 0.0)


def _pair(average: nn.Module, model: nn.Module) -> tuple[Pairs, Pairs]:
    """Parameters and buffers of both, those that are real numbers and those that are whole ones."""
    kept, given = ([*module.parameters(), *module.buffers()] for module in (average, model))
    real, whole = (
        [pair for pair in zip(kept, given, strict=True) if pair[0].is_floating_point() == wanted]
        for wanted in (True, False)
    )
    return _unzip(real), _unzip(whole)


def _unzip(pairs: list[tuple[Tensor, Tensor]]) -> Pairs:
    return [average for average, _ in pairs], [tensor for _, tensor in pairs]
