"""Probes while a network is trained: every so many steps one is read, and somebody told."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from training.activations.entry import Activation
from training.initialisers.entry import weighted
from training.loop.watch import Moment, Watch
from training.probes.keepers import Keeper
from training.probes.probe import LayerProbe
from training.probes.reading import NetworkReading, WeightReading
from training.probes.warnings import warnings


class ProbeWatch(Watch):
    """Reads the step of every `every`-th batch while it is made: no pass is run for it, and no other step is slower."""

    hooks = True

    def __init__(self, activation: Activation, every: int, keepers: Sequence[Keeper]) -> None:
        if every < 1:
            raise ValueError(f"probe_every={every} is not allowed: use at least 1")
        self.every, self.keepers = every, keepers
        self._activation = activation
        self._probe: LayerProbe | None = None
        self._reading: NetworkReading | None = None
        self._before: dict[str, Tensor] = {}

    def before_step(self, moment: Moment) -> None:
        if self._probe is None:
            network = moment.model.get_submodule("network")
            self._probe = LayerProbe(network, self._activation)
        self._probe.__enter__()

    def after_backward(self, moment: Moment) -> None:  # noqa: ARG002
        assert self._probe is not None
        self._probe.__exit__(None, None, None)
        self._reading = self._probe.read()
        self._before = {name: layer.weight.detach().clone() for name, layer in weighted(self._probe.network)}

    def after_step(self, moment: Moment) -> None:
        assert self._probe is not None
        assert self._reading is not None
        layers = dict(weighted(self._probe.network))
        weights = tuple(
            replace(weight, update_ratio=_ratio(weight, layers[weight.name].weight, self._before[weight.name]))
            for weight in self._reading.weights
        )
        reading = replace(self._reading, weights=weights)
        self._before = {}
        found = warnings(reading, moment.step)
        for keeper in self.keepers:
            keeper.keep(moment, reading, found)


@torch.no_grad()
def _ratio(weight: WeightReading, after: Tensor, before: Tensor) -> float | None:
    """Of the step, by the size before it; None of weights that are all 0."""
    size = before.float().square().mean().sqrt().item()
    return (after - before).float().square().mean().sqrt().item() / size if size and weight.gradient_rms else None
