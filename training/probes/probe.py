"""Reads activations and gradients where they arise, and keeps nothing of them but a few numbers a layer."""

import copy
import math
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from training.activations.entry import Activation, ActivationModule
from training.activations.meaning import saturated_inputs
from training.initialisers.entry import weighted
from training.probes.reading import LayerReading, NetworkReading, WeightReading
from training.resnet.reversible import ReversibleStage

Intervals = Sequence[tuple[float, float]]


class LayerProbe:
    """Watches one forward and one backward pass of a network.

    with LayerProbe(network, activation) as probe:
        loss = loss_of(network(images))
    loss.backward()
    reading = probe.read()

    Hooks are there only inside of the block, so steps that are not watched cost nothing.
    """

    def __init__(self, network: nn.Module, activation: Activation) -> None:
        self.network = network
        self._intervals = saturation_intervals(activation)
        self._usual = sum(_below(high) - _below(low) for low, high in self._intervals or ())
        self._handles: list[RemovableHandle] = []
        self._found: dict[str, dict[str, Tensor]] = {}

    def __enter__(self) -> Self:
        self._found = {}
        for name, module in self.network.named_modules():
            if isinstance(module, ActivationModule):
                self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def read(self, loss: float | None = None) -> NetworkReading:
        """What was seen: activations of the last pass inside of the block, and the gradients that are there now."""
        modules = dict(self.network.named_modules())
        layers = []
        for name, figures in self._found.items():
            module = modules[name]
            numbers: dict[str, Any] = {key: float(value) for key, value in figures.items()}
            shares = {key: numbers.pop(key, None) for key in ("saturated", "dead_units", "dead_channels")}
            layers.append(LayerReading(name=name, learned=_learned(module), usual=self._usual, **shares, **numbers))
        return NetworkReading(tuple(layers), tuple(read_weights(self.network)), loss)

    def _hook(self, name: str) -> Any:
        def look(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # A reversible stage runs its branches once more for the gradient.
            if name not in self._found:
                self._found[name] = measure(inputs[0], output, self._intervals)

        return look


@torch.no_grad()
def measure(x: Tensor, y: Tensor, intervals: Intervals | None) -> dict[str, Tensor]:
    """The figures of `LayerReading` for one activation y = f(x), N×C×H×W, still on the device."""
    variance, mean = torch.var_mean(y.float(), correction=0)
    found = {"mean": mean, "std": variance.sqrt(), "rank": participation_ratio(y.float().flatten(2).mean(2))}
    if intervals is not None:
        inside = torch.zeros_like(x, dtype=torch.bool)
        for low, high in intervals:
            inside |= (x >= low) & (x <= high)
        dead = inside.all(0)
        shares = {
            "saturated": inside.float().mean(),
            "dead_units": dead.float().mean(),
            "dead_channels": dead.flatten(1).all(1).float().mean(),
        }
        # What is no number lies in no interval, which says nothing.
        found |= {name: torch.where(mean.isfinite(), share, math.nan) for name, share in shares.items()}
    return found


def participation_ratio(means: Tensor) -> Tensor:
    """(tr Σ)²/tr Σ² of the covariance Σ of `means` N×C; 0 where nothing varies."""
    centred = means - means.mean(0)
    # The smaller of both products has the same eigenvalues.
    gram = centred @ centred.T if len(means) <= means.shape[1] else centred.T @ centred
    square = gram.square().sum()
    return torch.where(square > 0, gram.trace() ** 2 / square, torch.zeros_like(square))


def read_weights(network: nn.Module) -> list[WeightReading]:
    """The gradients as they are now."""
    return [
        WeightReading(name, _rms(layer.weight.grad), _rms(layer.weight) or 0.0) for name, layer in weighted(network)
    ]


def saturation_intervals(activation: Activation) -> Intervals | None:
    """Where f saturates, to four digits; None where that is no set of intervals, or training goes straight through."""
    if activation.reach != "element" or activation.slopes is None or not activation.continuous:
        return None
    return [(round(low, 4), round(high, 4)) for low, high in saturated_inputs(activation)]


def look(
    model: nn.Module, network: nn.Module, activation: Activation, images: Tensor, labels: Tensor
) -> NetworkReading:
    """One pass of `model`, forward and back, as a step of training would make it; `network` is the part that is read.

    A copy is run: running statistics, gradients and random states stay as they are.
    """
    path = next(name for name, module in model.named_modules() if module is network)
    twin = copy.deepcopy(model).train()
    for stage in (module for module in twin.modules() if isinstance(module, ReversibleStage)):
        stage.recompute = False
    twin.zero_grad(set_to_none=True)
    with torch.random.fork_rng([images.device] if images.is_cuda else []), torch.enable_grad():
        torch.manual_seed(0)
        with LayerProbe(twin.get_submodule(path), activation) as probe:
            loss = F.cross_entropy(twin(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
    return probe.read(loss.item())


def _below(x: float) -> float:
    """P(N(0, 1) ≤ x)."""
    return (1 + math.erf(x / math.sqrt(2))) / 2


def _learned(module: nn.Module) -> dict[str, tuple[float, float, float]]:
    return {
        name: (parameter.mean().item(), parameter.min().item(), parameter.max().item())
        for name, parameter in module.named_parameters()
    }


def _rms(tensor: Tensor | None) -> float | None:
    return None if tensor is None else tensor.detach().float().square().mean().sqrt().item()
