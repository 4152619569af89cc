"""The initialisers by name."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from training.initialisers.autoencoder import layerwise_autoencoder
from training.initialisers.branches import fixup, zero_gamma
from training.initialisers.entry import Initialiser
from training.initialisers.lsuv import lsuv
from training.initialisers.orthogonal import delta_orthogonal, orthogonal
from training.initialisers.variance import fan_in, fan_mean, fan_out, fixed, he_of, scaled, zeros
from training.weights.file import read_weights
from training.weights.importing import load_weights

GAIN = {"gain": math.sqrt(2.0)}

INITIALISERS: dict[str, Initialiser] = {
    "he": Initialiser(he_of(fan_out, uniform=False), "He 2015, with n_out"),
    "he_uniform": Initialiser(he_of(fan_out, uniform=True), "He 2015, with n_out"),
    "he_fan_in": Initialiser(he_of(fan_in, uniform=False), "He 2015, with n_in"),
    "he_fan_in_uniform": Initialiser(he_of(fan_in, uniform=True), "He 2015, with n_in"),
    "lecun": Initialiser(scaled(fan_in, uniform=False), "LeCun 1998"),
    "lecun_uniform": Initialiser(scaled(fan_in, uniform=True), "LeCun 1998"),
    "glorot": Initialiser(scaled(fan_mean, uniform=False), "Glorot & Bengio 2010"),
    "glorot_uniform": Initialiser(scaled(fan_mean, uniform=True), "Glorot & Bengio 2010"),
    "gaussian": Initialiser(fixed(uniform=False), "Krizhevsky 2012", {"std": 0.01}),
    "uniform": Initialiser(fixed(uniform=True), "as gaussian, of the same variance", {"std": 0.01}),
    "zeros": Initialiser(zeros, "a control: symmetry is never broken"),
    "orthogonal": Initialiser(orthogonal, "Saxe 2014", GAIN),
    "delta_orthogonal": Initialiser(delta_orthogonal, "Xiao 2018", GAIN),
    "lsuv": Initialiser(lsuv, "Mishkin & Matas 2015", GAIN, needs_images=True),
    "fixup": Initialiser(fixup, "Zhang 2019"),
    "zero_gamma": Initialiser(zero_gamma, "Goyal 2017"),
    "layerwise_autoencoder": Initialiser(
        layerwise_autoencoder, "Bengio 2007, Masci 2011", {"steps": 20, "learning_rate": 0.001}, needs_images=True
    ),
    # What the file does not hold, a classifier of other classes, is as `he` leaves it.
    "pretrained": Initialiser(he_of(fan_out, uniform=False), "fine-tuning", needs_weights=True),
}


def find_initialiser(key: str, parameters: Mapping[str, float] | None = None) -> Initialiser:
    """The entry with all of its parameters; raises `ValueError` for an unknown name or an impossible value."""
    if key not in INITIALISERS:
        raise ValueError(f"unknown initialiser {key!r}; choose from {', '.join(INITIALISERS)}")
    entry = INITIALISERS[key]
    for name, value in (parameters or {}).items():
        if name not in entry.parameters:
            known = ", ".join(entry.parameters) or "none"
            raise ValueError(f"initialiser {key!r} has no parameter {name!r}; it has: {known}")
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value} of initialiser {key!r} is not allowed: use a finite number above 0")
        if name == "steps" and not (value == int(value) and value <= 10_000):
            raise ValueError(f"steps={value} of initialiser {key!r} is not allowed: use a whole number up to 10000")
    return replace(entry, parameters={**entry.parameters, **(parameters or {})})


def initialise(
    network: nn.Module,
    key: str = "he",
    parameters: Mapping[str, float] | None = None,
    images: Tensor | None = None,
    weights: Path | None = None,
) -> None:
    """Give `network` its first weights.

    `images` N×C×H×W are as the network reads them, on its device; `weights` is the file of `pretrained`. Raises
    `ValueError` for an unknown name, an impossible value, what is missing, or a network that it has no meaning for.
    """
    entry = find_initialiser(key, parameters)
    if entry.needs_images and images is None:
        raise ValueError(f"initialiser {key!r} needs images to measure on: give a batch")
    if entry.needs_weights and weights is None:
        raise ValueError(f"initialiser {key!r} needs a file of weights: give --pretrained FILE")
    if weights is not None and not entry.needs_weights:
        raise ValueError(f"initialiser {key!r} reads no file of weights: choose initialiser 'pretrained' for {weights}")
    entry.function(network, images, entry.parameters)
    if weights is not None:
        load_weights(network, read_weights(weights), other_classes=True)
