"""What an activation does to its input, computed in float64: where it saturates, and what becomes of N(0, 1)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.activations.entry import Activation, ActivationModule

Values = NDArray[np.float64]

REACH = 10.0
"""N(0, 1) is integrated to ±10 standard deviations: what is left out weighs 1e-23."""
PANEL = 0.5
NODES = 16
FARTHEST = 100.0
"""Saturation is looked for up to ±100."""


@dataclass(frozen=True)
class NormalMoments:
    """Mean and variance of one output when every input is an independent draw from N(0, 1)."""

    mean: float
    variance: float


def normal_moments(activation: Activation, module: ActivationModule) -> NormalMoments | None:
    """∫ f φ and ∫ f² φ − mean², by Gauss–Legendre quadrature on panels that end at the kinks; averaged over channels.

    `module` is what `activation` built, with its parameters as they are. None where an output depends on other
    positions, or on more than two channels: there is no such integral, or none that is cheap.
    """
    inputs = activation.takes(**activation.parameters)
    if activation.reach == "image" or inputs > 2:
        return None
    nodes, weights = _quadrature(activation)
    if activation.reach == "element":
        x = torch.from_numpy(nodes).expand(1, module.channels, 1, -1)
        outputs = _evaluate(module, x)[0, :, 0]
        return _moments(outputs, weights)
    # One output that takes two channels: the plane of both, turned by 45° so that the line where they are equal, the
    # kink of a maximum, lies between panels. N(0, 1) in the plane looks the same from every side.
    pair = activation.build(inputs)
    u, v = np.meshgrid(nodes, nodes, indexing="ij")
    grid = torch.from_numpy(np.stack([u + v, u - v]) / math.sqrt(2))[None]
    outputs = _evaluate(pair, grid)[0].reshape(pair.output_channels(), -1)
    return _moments(outputs, np.outer(weights, weights).ravel())


def saturated_inputs(activation: Activation) -> list[tuple[float, float]]:
    """The intervals of x where |f′| is below 1 % of its maximum, up to where it is infinite; edges to about 1e-6.

    Where f′ has no maximum, those where f′ = 0. Raises `ValueError` where f has more than one input.
    """
    if activation.reach != "element" or activation.slopes is None:
        raise ValueError(f"{activation.formula} has more than one input: saturation is no interval of x")
    module = activation.build(1)
    # Half a step off, so that no point lies on a kink; and close to 0, where many a slope is largest.
    x = np.arange(-FARTHEST, FARTHEST, 1e-3) + 5e-4
    slope = _slope(module, x)
    largest = max(slope.max(), _slope(module, np.array([-1e-5, 1e-5])).max())
    # A slope of 1 % exactly is not below it, whatever the rounding of a difference.
    limit = 0.0 if math.inf in activation.slopes else 0.01 * float(largest) * (1 - 1e-5)

    def saturated(at: float) -> bool:
        return bool(_slope(module, np.array([at]))[0] <= limit)

    inside = slope <= limit
    edges = [_edge(saturated, x[index], x[index + 1]) for index in np.flatnonzero(inside[1:] != inside[:-1])]
    bounds: list[float] = [*([-math.inf] if inside[0] else []), *edges, *([math.inf] if inside[-1] else [])]
    return list(zip(bounds[::2], bounds[1::2], strict=True))


def _edge(saturated: Callable[[float], bool], low: float, high: float) -> float:
    at_low = saturated(low)
    for _ in range(40):
        middle = (low + high) / 2
        if saturated(middle) == at_low:
            low = middle
        else:
            high = middle
    return float(low + high) / 2


def _slope(module: ActivationModule, x: Values) -> Values:
    """|f′| by central differences: the function's own, whatever gradient training uses."""
    step = 1e-6

    def value(at: Values) -> Values:
        return _evaluate(module, torch.from_numpy(at).reshape(1, 1, 1, -1)).ravel()

    return np.abs(value(x + step) - value(x - step)) / (2 * step)


def _quadrature(activation: Activation) -> tuple[Values, Values]:
    # Those of the defaults, and those that a parameter sets.
    parameters = activation.parameters.values()
    kinks = [*activation.kinks, *parameters, *(-value for value in parameters)]
    inner = [kink for kink in kinks if abs(kink) < REACH]
    bounds = np.unique(np.concatenate([np.arange(-REACH, REACH + PANEL, PANEL), inner]))
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    middle, half = (bounds[1:] + bounds[:-1]) / 2, (bounds[1:] - bounds[:-1]) / 2
    x = (middle[:, None] + half[:, None] * nodes).ravel()
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return x, (half[:, None] * weights).ravel() * density


def _moments(outputs: Values, weights: Values) -> NormalMoments:
    """Over the last axis by quadrature, over the first evenly."""
    mean = float((outputs * weights).sum(-1).mean())
    square = float((outputs**2 * weights).sum(-1).mean())
    return NormalMoments(mean, square - mean**2)


@torch.no_grad()
def _evaluate(module: ActivationModule, x: Tensor) -> Values:
    """The module in evaluation mode and float64; it is itself left as it was."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    state = {name: value.double() if value.is_floating_point() else value for name, value in state.items()}
    training = module.training
    try:
        values: Values = torch.func.functional_call(module.eval(), state, (x.double(),)).numpy()
    finally:
        module.train(training)
    return values
