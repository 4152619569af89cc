"""The cases that every test of the activations runs over: each key, its parameters, and values that it could learn."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tests.training.formulas import Array, formula, spatial_attention, window
from training.activations.catalogue import catalogue, find_activation
from training.activations.entry import Activation, ActivationModule

ENTRIES = catalogue()
WIDTH = 4
"""Nominal width of the layer; what enters is more where the activation takes more."""

# What is not at its default, by key. Bodies and regions may depend on each.
VARIED: dict[str, list[dict[str, float]]] = {
    "elu": [{"alpha": 0.5}, {"alpha": 2.0}],
    "celu": [{"alpha": 0.3}, {"alpha": 3.0}],
    "soft_relu": [{"threshold": 2.0}, {"threshold": 2.3}, {"threshold": 80.0}],
    "leaky_relu": [{"alpha": 0.005}, {"alpha": 0.0}, {"alpha": 0.2}],
    "rrelu": [
        {"lower": 0.0, "upper": 0.5},
        {"lower": 0.2, "upper": 0.2},
        {"lower": 0.0, "upper": 0.01},
        {"lower": 0.0, "upper": 0.0},
    ],
    "maxout": [{"k": 3}],
    "dynamic_relu_a": [{"lambda_a": 0.5, "lambda_b": 2.0, "reduction": 2}],
    "dynamic_relu_b": [{"lambda_a": 0.5, "lambda_b": 2.0, "reduction": 2}],
    "dynamic_relu_c": [{"lambda_a": 0.5, "lambda_b": 2.0, "reduction": 2}],
}
# What slopes and the like are drawn from; slopes from 0 to 1 may have a cheaper ONNX body than others.
LEARNED: dict[str, tuple[float, float] | None] = {"initial": None, "convex": (0.0, 1.0), "any": (-1.5, 2.5)}


@dataclass(frozen=True)
class Case:
    """One activation with its parameters, and where its learned values come from."""

    key: str
    parameters: tuple[tuple[str, float], ...] = ()
    learned: str = "initial"

    def __str__(self) -> str:
        values = [f"{name}={value:g}" for name, value in self.parameters]
        return "-".join([self.key, *values, *([] if self.learned == "initial" else [self.learned])])

    @property
    def entry(self) -> Activation:
        return _entry(self.key, self.parameters)

    @property
    def channels(self) -> int:
        """Channels that enter."""
        return self.entry.width_before(WIDTH)

    def build(self) -> ActivationModule:
        """The module in evaluation mode."""
        torch.manual_seed(5)
        module = self.entry.build(self.channels).eval()
        if bounds := LEARNED[self.learned]:
            learn(module, *bounds)
        return module

    def known(self, module: ActivationModule) -> dict[str, Any]:
        """What the formula takes: the parameters, and the module's state in float64."""
        state = {name: value.detach().double().numpy().copy() for name, value in module.state_dict().items()}
        return {**self.entry.parameters, **state}

    def expected(self, module: ActivationModule, x: NDArray[Any]) -> Array:
        """The formula in float64."""
        return formula(self.key)(x.astype(np.float64), self.known(module))

    def size(self, module: ActivationModule, x: NDArray[Any]) -> Array:
        """1 + |y|, by which an error is measured.

        Where y is a sum of parts that may cancel, rounding goes with the parts and not with what is left of them: then
        1 + the sum of their magnitudes.
        """
        known, y = self.known(module), np.abs(self.expected(module, x))
        if self.key == "frelu":
            scale = known["bn.weight"] / np.sqrt(known["bn.running_var"] + 1e-5)
            kernel = np.abs(known["window.weight"] * scale[:, None, None, None])
            shift = np.abs(known["bn.bias"]) + np.abs(known["bn.running_mean"] * scale)
            return 1 + y + window(np.abs(x), kernel) + shift[:, None, None]
        if self.key.startswith("dynamic_relu") and self.learned != "initial":
            # |a| ≤ 1 + λ_a and |b| ≤ λ_b; a is rounded before it meets x.
            parts = (1 + known["lambda_a"]) * np.abs(x) + known["lambda_b"]
            share = spatial_attention(x, known) if self.key == "dynamic_relu_c" else 1.0
            return 1 + y + parts * share
        return 1 + y


@cache
def _entry(key: str, parameters: tuple[tuple[str, float], ...]) -> Activation:
    # Once: each look-up reads the entry points of all installed packages.
    return find_activation(key, dict(parameters))


def learn(module: nn.Module, low: float, high: float, seed: int = 3, spread: float = 0.5) -> None:
    """Values that no default could equal: slopes within the bounds, weights from N(0, spread²), moderate statistics."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, spread, generator=generator)
        else:
            parameter.data.uniform_(low, high, generator=generator)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.5, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)


def _cases() -> Iterator[Case]:
    for key, entry in ENTRIES.items():
        for parameters in [{}, *VARIED.get(key, [])]:
            case = Case(key, tuple(parameters.items()))
            yield case
            learned = list(entry.build(case.channels).parameters())
            if learned:
                yield Case(key, case.parameters, "any")
            if learned and all(parameter.ndim == 1 for parameter in learned):
                yield Case(key, case.parameters, "convex")


CASES = list(_cases())
KEYS = list(ENTRIES)
ELEMENTWISE = [case for case in CASES if case.entry.reach == "element" and case.entry.slopes is not None]
"""Those with one input and one output."""


def magnitudes() -> Array:
    """Zero, tiny, moderate, every kink, large and huge."""
    kinks = sorted({abs(kink) for entry in ENTRIES.values() for kink in entry.kinks} | {2.0, 2.3, 80.0})
    chosen = [0.0, 1e-8, 100.0, 1e4, *kinks]
    dense = np.concatenate([np.logspace(-6, 2.3, 60), np.linspace(0, 25, 140 - len(chosen))])
    return np.concatenate([chosen, dense])


def grid(case: Case) -> NDArray[np.float32]:
    """Values of both signs, every one in every channel, in an order of each channel's own; N×C×H×W.

    Dynamic ReLU that has learned takes its coefficients from the mean over the image. Among values of 1e4 and −1e4 a
    mean in float32 keeps no digit of the small ones, whatever computes it: there the values are those of a feature map.
    """
    random = np.random.default_rng(2)
    if case.key.startswith("dynamic_relu") and case.learned != "initial":
        return random.normal(0, 3, (5, case.channels, 10, 8)).astype(np.float32)
    values = np.concatenate([magnitudes(), -magnitudes()]).astype(np.float32)
    planes = [random.permutation(values).reshape(5, 10, 8) for _ in range(case.channels)]
    return np.ascontiguousarray(np.stack(planes, axis=1))
