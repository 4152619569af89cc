"""The formula of every activation in NumPy's float64, written from its paper: what the code under test is held against.

x is N×C×H×W. `p` holds the parameters by name: those of the catalogue, and what the module has learned, by the names of
its state.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

Array = NDArray[np.float64]
Parameters = Mapping[str, Any]
Formula = Callable[[Array, Parameters], Array]

WRITE_IT = "write the formula of a new activation into FORMULAS of tests/training/formulas.py"
NORM_EPSILON = 1e-5
"""What batch normalisation adds to the variance, in PyTorch as in Ioffe & Szegedy 2015."""


def logistic(x: Array) -> Array:
    """1 / (1 + e⁻ˣ) without overflow, and with relative accuracy in the far negative tail."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def leaky(x: Array, slope: Any) -> Array:
    return np.where(x > 0, x, slope * x)


def exponential(x: Array, alpha: float, scale: float = 1.0) -> Array:
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def per_channel(values: Array) -> Array:
    return values.reshape(1, -1, 1, 1)


def selu(x: Array, _: Parameters) -> Array:
    """α and λ from their purpose: mean 0 and variance 1 for inputs from N(0, 1). Klambauer 2017."""
    # E[x; x > 0] = 1/√(2π), and with q(a) = E[e^{ax}; x < 0] = e^{a²/2}·erfc(a/√2)/2: E[f] = 0 and E[f²] = 1.
    q1, q2 = np.exp(0.5) * erfc(1 / np.sqrt(2)) / 2, np.exp(2) * erfc(np.sqrt(2)) / 2
    alpha = 1 / np.sqrt(2 * np.pi) / (0.5 - q1)
    scale = 1 / np.sqrt(0.5 + alpha**2 * (q2 - 2 * q1 + 0.5))
    return exponential(x, alpha, scale)


def gelu_tanh(x: Array, _: Parameters) -> Array:
    # (1 + tanh u) / 2 = σ(2u), which does not cancel for x < 0.
    return x * logistic(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))


def crelu(x: Array, _: Parameters) -> Array:
    return np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis=1)


def maxout(x: Array, p: Parameters) -> Array:
    """Piece j of output c is channel c + j·C/k."""
    count, channels, *size = x.shape
    return x.reshape(count, int(p["k"]), channels // int(p["k"]), *size).max(1)


def glu(x: Array, _: Parameters) -> Array:
    half = x.shape[1] // 2
    return x[:, :half] * logistic(x[:, half:])


def coefficients(x: Array, p: Parameters) -> Array:
    """(a₁, a₂, b₁, b₂) of dynamic ReLU: 4 × N × (C or 1) × 1 × 1. Chen 2020, equations 3 to 5."""
    hidden = np.maximum(x.mean((2, 3)) @ p["squeeze.weight"].T + p["squeeze.bias"], 0)
    residuals = 2 * logistic(hidden @ p["excite.weight"].T + p["excite.bias"]) - 1
    delta = residuals.reshape(len(x), 4, -1, 1, 1).swapaxes(0, 1)
    initial, scales = [1, 0, 0, 0], [p["lambda_a"]] * 2 + [p["lambda_b"]] * 2
    return np.stack([start + scale * part for start, scale, part in zip(initial, scales, delta, strict=True)])


def dynamic_relu(x: Array, p: Parameters) -> Array:
    a1, a2, b1, b2 = coefficients(x, p)
    return np.maximum(a1 * x + b1, a2 * x + b2)


def spatial_attention(x: Array, p: Parameters) -> Array:
    """π of form C: softmax over positions at temperature 10, times HW/3, at most 1. Chen 2020, section 3.3."""
    weight = p["attention.weight"].reshape(1, -1, 1, 1)
    z = ((weight * x).sum(1, keepdims=True) + p["attention.bias"]) / 10
    e = np.exp(z - z.max((2, 3), keepdims=True))
    share = e / e.sum((2, 3), keepdims=True)
    return np.minimum(share * x.shape[2] * x.shape[3] / 3, 1)


def window(x: Array, kernel: Array) -> Array:
    """Depthwise 3×3 cross-correlation with zeros beyond the border."""
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return np.sum(
        [
            kernel[:, 0, i, j][:, None, None] * padded[:, :, i : i + height, j : j + width]
            for i in range(3)
            for j in range(3)
        ],
        axis=0,
    )


def frelu(x: Array, p: Parameters, training: bool = False) -> Array:
    """Evaluation normalises by running statistics, training by those of the batch. Ma 2020."""
    t = window(x, p["window.weight"])
    mean = t.mean((0, 2, 3)) if training else p["bn.running_mean"]
    variance = t.var((0, 2, 3)) if training else p["bn.running_var"]
    normal = (t - per_channel(mean)) / np.sqrt(per_channel(variance) + NORM_EPSILON)
    return np.maximum(x, per_channel(p["bn.weight"]) * normal + per_channel(p["bn.bias"]))


FORMULAS: dict[str, Formula] = {
    "identity": lambda x, _: x,
    "relu": lambda x, _: np.maximum(x, 0),
    "relu6": lambda x, _: np.clip(x, 0, 6),
    "squared_relu": lambda x, _: np.maximum(x, 0) ** 2,
    "leaky_relu": lambda x, p: leaky(x, p["alpha"]),
    "rrelu": lambda x, p: leaky(x, (p["lower"] + p["upper"]) / 2),
    "prelu_shared": lambda x, p: leaky(x, p["weight"].item()),
    "prelu": lambda x, p: leaky(x, per_channel(p["weight"])),
    "elu": lambda x, p: exponential(x, p["alpha"]),
    "selu": selu,
    "celu": lambda x, p: np.maximum(x, 0) + np.minimum(0, p["alpha"] * np.expm1(np.minimum(x, 0) / p["alpha"])),
    "softplus": lambda x, _: np.logaddexp(0, x),
    "soft_relu": lambda x, p: np.logaddexp(0, np.clip(x, -p["threshold"], p["threshold"])),
    # erfc, since 1 + erf cancels for x < 0.
    "gelu": lambda x, _: x * erfc(-x / np.sqrt(2)) / 2,
    "gelu_tanh": gelu_tanh,
    "gelu_sigmoid": lambda x, _: x * logistic(1.702 * x),
    "swish": lambda x, _: x * logistic(x),
    "swish_beta": lambda x, p: x * logistic(per_channel(p["beta"]) * x),
    "su": lambda x, _: np.maximum(x, x * np.exp(-np.abs(x))),
    "hard_swish": lambda x, _: x * np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x, _: x * np.tanh(np.logaddexp(0, x)),
    "step": lambda x, _: np.where(x >= 0, 1.0, 0.0),
    "sigmoid": lambda x, _: logistic(x),
    "tanh": lambda x, _: np.tanh(x),
    "hard_tanh": lambda x, _: np.clip(x, -1, 1),
    "hard_sigmoid": lambda x, _: np.clip(x / 6 + 0.5, 0, 1),
    "hard_sigmoid_02": lambda x, _: np.clip(0.2 * x + 0.5, 0, 1),
    "softsign": lambda x, _: x / (1 + np.abs(x)),
    "crelu": crelu,
    "maxout": maxout,
    "glu": glu,
    "dynamic_relu_a": dynamic_relu,
    "dynamic_relu_b": dynamic_relu,
    "dynamic_relu_c": lambda x, p: dynamic_relu(x, p) * spatial_attention(x, p),
    "frelu": frelu,
}


def formula(key: str) -> Formula:
    """The formula of a catalogue key; a key without one fails with what to do."""
    assert key in FORMULAS, f"no formula for {key!r}: {WRITE_IT}"
    return FORMULAS[key]


def curve(key: str, p: Parameters, x: Array) -> Array:
    """f at the points x, for an activation that works on each element alone; the first channel's."""
    channels = max([len(value) for value in p.values() if isinstance(value, np.ndarray)], default=1)
    spread = np.broadcast_to(x.reshape(1, 1, 1, -1), (1, channels, 1, x.size))
    return formula(key)(spread, p)[0, 0, 0].reshape(x.shape)


def slope(key: str, p: Parameters, x: Array) -> Array:
    """f′ of the formula by central differences: the function's own, whatever gradient training uses."""
    step = 1e-6 * np.maximum(1, np.abs(x) / 100)
    return (curve(key, p, x + step) - curve(key, p, x - step)) / (2 * step)
