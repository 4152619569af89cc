"""What is wrong with a reading, in plain words."""

import math
from collections.abc import Iterator, Sequence

from training.probes.reading import LayerReading, NetworkReading, WeightReading

VANISHED = 1e-7
"""RMS of a gradient below which nothing is learned in single precision."""
EXPLODED = 1e2
"""RMS of a gradient that no learning rate in use survives."""
UPDATES = (1e-8, 10.0)
"""Of the weights' RMS, how much a step may change them."""
SCALE = 10.0
"""How many times larger or smaller activations may be from one layer to another before the first step."""
DEAD = 0.5
WAITING = 3
"""Steps after which whatever starts from 0 has moved."""
RANK = 1.05
"""Participation ratio below which the images of a batch differ in one direction alone."""


def warnings(reading: NetworkReading, step: int) -> dict[str, str]:
    """A sentence for each kind of trouble; `step` is counted from 0."""
    # Branches and classifiers that start from 0, as Fixup's do, let no gradient through before they have moved, and
    # channels that shortcuts pad with zeros are empty until then: they are well.
    waiting = step < WAITING and any(weight.gradient_rms == 0 for weight in reading.weights)
    found = {
        "numbers": _numbers(reading.layers),
        "gradient": _gradient(reading.weights, waiting),
        "explosion": _explosion(reading.weights),
        "update": _update(reading.weights),
        "scale": _scale(reading.layers) if step == 0 else "",
        "dead": "" if waiting else _dead(reading.layers),
        "saturation": "" if waiting else _saturation(reading.layers),
        "rank": _rank(reading.layers),
    }
    return {kind: sentence for kind, sentence in found.items() if sentence}


def _numbers(layers: Sequence[LayerReading]) -> str:
    bad = [layer.name for layer in layers if not math.isfinite(layer.mean)]
    return f"the output of {_some(bad)} is no number any more" if bad else ""


def _gradient(weights: Sequence[WeightReading], waiting: bool) -> str:
    small = {
        weight.name: weight.gradient_rms
        for weight in weights
        if weight.gradient_rms is not None and weight.gradient_rms < VANISHED and (weight.gradient_rms or not waiting)
    }
    return f"gradient of {_some(list(small))} has vanished: {min(small.values()):.0e}" if small else ""


def _explosion(weights: Sequence[WeightReading]) -> str:
    gradients = {weight.name: weight.gradient_rms for weight in weights if weight.gradient_rms is not None}
    bad = [name for name, gradient in gradients.items() if not math.isfinite(gradient)]
    if bad:
        return f"gradient of {_some(bad)} is no number"
    large = {name: gradient for name, gradient in gradients.items() if gradient > EXPLODED}
    return f"gradient of {_some(list(large))} has exploded: {max(large.values()):.0e}" if large else ""


def _update(weights: Sequence[WeightReading]) -> str:
    low, high = UPDATES
    ratios = {weight.name: weight.update_ratio for weight in weights if weight.update_ratio is not None}
    large = {name: ratio for name, ratio in ratios.items() if ratio > high}
    if large:
        return f"one step changed the weights of {_some(list(large))} by {max(large.values()):.0e} times their size"
    small = {name: ratio for name, ratio in ratios.items() if ratio < low}
    # A step that was left out, for its gradients are no numbers, is no trouble of its own.
    if not small or _explosion(weights):
        return ""
    return f"a step changes the weights of {_some(list(small))} by no more than {max(small.values()):.0e} of their size"


def _scale(layers: Sequence[LayerReading]) -> str:
    stds = [(layer.std, layer.name) for layer in layers if math.isfinite(layer.std) and layer.std > 0]
    if not stds:
        return ""
    (low, smallest), (high, largest) = min(stds), max(stds)
    if high <= SCALE * low:
        return ""
    return (
        f"before the first step the activations of {largest} are {high / low:.3g} times as large as those of "
        f"{smallest}: choose another initialiser, or normalise"
    )


def _dead(layers: Sequence[LayerReading]) -> str:
    dead = {
        layer.name: layer.dead_units for layer in layers if layer.dead_units is not None and layer.dead_units > DEAD
    }
    return f"{max(dead.values()):.0%} of the units of {_some(list(dead))} are dead" if dead else ""


def _saturation(layers: Sequence[LayerReading]) -> str:
    # More than half of all inputs; where half of them are anyway, as of a ReLU, more than 95 %.
    flat = {
        layer.name: layer.saturated
        for layer in layers
        if layer.saturated is not None and layer.saturated > 0.5 + 0.9 * layer.usual
    }
    return f"{max(flat.values()):.0%} of the inputs of {_some(list(flat))} are where it is flat" if flat else ""


def _rank(layers: Sequence[LayerReading]) -> str:
    flat = [layer.name for layer in layers[1:] if math.isfinite(layer.rank) and layer.rank < RANK]
    return f"after {_some(flat)} images differ in one direction alone" if flat else ""


def _some(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def new(found: dict[str, str], told: set[str]) -> Iterator[str]:
    """Those of a kind that was not told before; `told` is kept."""
    for kind, sentence in found.items():
        if kind not in told:
            told.add(kind)
            yield sentence
