"""What activations do, by key: recognised by their values, whatever nodes compute them.

The keys and what is said of them are those of the training package's catalogue, which the service does not have; a test
holds the two together.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.manifest import Saturation
from models.sites.expressions import Function, Values

INF = math.inf
NEVER = Saturation()
TOLERANCE = 2e-4
"""Of |f − formula| / (1 + |f|): constants of half precision are off by so much, and GELU's tanh form by 5e-4."""
FAR = 80.0
"""The farthest input: its exponential is still a float32."""

_MAGNITUDES = np.concatenate([np.logspace(-3, 1, 120), np.linspace(10.5, FAR, 40)])
GRID: Values = np.concatenate([-_MAGNITUDES[::-1], _MAGNITUDES])
"""Not 0, where steps and their kin are a matter of taste."""

_SELU = (1.0507009873554805, 1.6732632423543772)
_SWISH_MINIMUM = -0.2784645427610738
_QUICK = 1.702
_EDGE = math.sqrt(0.99)


@dataclass(frozen=True)
class Meaning:
    """One activation: its formula on float64, and what its output says."""

    formula: Callable[[Values], Values]
    output_range: tuple[float, float] = (-INF, INF)
    saturation: Saturation | None = NEVER
    zero_is_dead: bool = False
    kinks: tuple[float, ...] = ()
    """Beside multiples of ½."""


def _sigmoid(x: Values) -> Values:
    return 0.5 * (1 + np.tanh(x / 2))


def _softplus(x: Values) -> Values:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _erf(x: Values) -> Values:
    return np.array([math.erf(value) for value in x.ravel()]).reshape(x.shape)


def _elu(x: Values, alpha: float) -> Values:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _bounded(formula: Callable[[Values], Values], low: float, high: float, edge: float) -> Meaning:
    """A sigmoid that is saturated within `edge` of its bounds."""
    return Meaning(formula, (low, high), Saturation(below=low + edge, above=high - edge))


def _rectifier(formula: Callable[[Values], Values], *kinks: float) -> Meaning:
    return Meaning(formula, (0.0, INF), Saturation(below=0.0), True, kinks)


_BETWEEN = Saturation(below=0.0, above=1.0)

IDENTITY = {"identity": Meaning(lambda x: x)}
"""An activation only where it is marked as one."""

FIXED: dict[str, Meaning] = {
    "relu": _rectifier(lambda x: np.maximum(x, 0)),
    "relu6": Meaning(lambda x: np.clip(x, 0, 6), (0.0, 6.0), Saturation(below=0.0, above=6.0), True),
    "squared_relu": _rectifier(lambda x: np.maximum(x, 0) ** 2),
    "gelu": Meaning(lambda x: x / 2 * (1 + _erf(x / math.sqrt(2))), (-0.16997120747990369, INF), None),
    "gelu_tanh": Meaning(
        lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        (-0.17004075057125412, INF),
        None,
    ),
    "gelu_sigmoid": Meaning(lambda x: x * _sigmoid(_QUICK * x), (_SWISH_MINIMUM / _QUICK, INF), None),
    "swish": Meaning(lambda x: x * _sigmoid(x), (_SWISH_MINIMUM, INF), None),
    "su": Meaning(lambda x: x * np.exp(np.minimum(x, 0)), (-1 / math.e, INF), None),
    "hard_swish": Meaning(lambda x: x * np.clip(x + 3, 0, 6) / 6, (-0.375, INF), None, True),
    "mish": Meaning(lambda x: x * np.tanh(_softplus(x)), (-0.30884341301725043, INF), None),
    "selu": Meaning(
        lambda x: _SELU[0] * _elu(x, _SELU[1]),
        (-_SELU[0] * _SELU[1], INF),
        Saturation(below=-0.99 * _SELU[0] * _SELU[1]),
    ),
    "softplus": Meaning(_softplus, (0.0, INF), Saturation(below=-math.log(0.99))),
    "step": Meaning(lambda x: (x >= 0).astype(np.float64), (0.0, 1.0), _BETWEEN),
    "sigmoid": _bounded(_sigmoid, 0.0, 1.0, 0.5 - _EDGE / 2),
    "tanh": _bounded(np.tanh, -1.0, 1.0, 1 - _EDGE),
    "hard_tanh": _bounded(lambda x: np.clip(x, -1, 1), -1.0, 1.0, 0.0),
    "hard_sigmoid": Meaning(lambda x: np.clip(x / 6 + 0.5, 0, 1), (0.0, 1.0), _BETWEEN, True),
    "hard_sigmoid_02": Meaning(lambda x: np.clip(0.2 * x + 0.5, 0, 1), (0.0, 1.0), _BETWEEN, True),
    "softsign": _bounded(lambda x: x / (1 + np.abs(x)), -1.0, 1.0, 0.1),
}


def _leaky_relu(f: Function) -> Meaning | None:
    alpha = -_number(f, -1.0)
    if abs(alpha) == 1:
        # The identity and |x|.
        return None
    return Meaning(
        lambda x: np.where(x > 0, x, alpha * x),
        (-INF if alpha != 0 else 0.0, INF),
        Saturation(below=0.0) if 0 <= alpha < 0.01 else NEVER,
        alpha == 0,
    )


def _elu_family(f: Function) -> Meaning | None:
    alpha = -_number(f, -FAR)
    if not alpha > 0:
        return None
    return Meaning(lambda x: _elu(x, alpha), (-alpha, INF), Saturation(below=min(0.01 * max(1, alpha) - alpha, 0)))


def _celu(f: Function) -> Meaning | None:
    alpha = -_number(f, -FAR)
    if not alpha > 0:
        return None
    return Meaning(lambda x: alpha * _elu(x / alpha, 1), (-alpha, INF), Saturation(below=-0.99 * alpha))


def _soft_relu(f: Function) -> Meaning | None:
    highest = _number(f, FAR)
    if not 0 < highest < FAR:
        return None
    t = highest + math.log(-math.expm1(-highest))
    lowest = math.log1p(math.exp(-t))
    steep = -math.log1p(-0.01 / (1 + math.exp(-t)))
    return Meaning(
        lambda x: np.log1p(np.exp(np.clip(x, -t, t))),
        (lowest, highest),
        Saturation(below=max(steep, lowest), above=highest),
        kinks=(t, -t),
    )


def _clip(f: Function) -> Meaning | None:
    low, high = _number(f, -FAR), _number(f, FAR)
    bounds = (low if low > -FAR else -INF, high if high < FAR else INF)
    if not bounds[0] < bounds[1] or bounds == (-INF, INF):
        return None
    region = Saturation(below=_finite(bounds[0]), above=_finite(bounds[1]))
    return Meaning(lambda x: np.clip(x, *bounds), bounds, region, 0.0 in bounds, kinks=(low, high))


def _thresholded_relu(f: Function) -> Meaning | None:
    low, high = -FAR, FAR
    for _ in range(6):
        x = np.linspace(low, high, 201)
        passed = f(x)[0] != 0
        if passed[0] or not passed[-1]:
            return None
        first = int(passed.argmax())
        low, high = x[first - 1], x[first]
    return _rectifier(lambda x: np.where(x > low, x, 0), low) if low >= 0 else None


def _swish_beta(f: Function) -> Meaning | None:
    gate = _at(f, 1.0)[:, None]
    if not ((gate > 0) & (gate < 1)).all():
        return None
    beta = np.log(gate / (1 - gate))
    return Meaning(lambda x: x * _sigmoid(beta * x), saturation=None)


def _prelu(f: Function) -> Meaning:
    slopes = -_at(f, -1.0)[:, None]
    return Meaning(lambda x: np.where(x > 0, x, slopes * x))


ALIKE: dict[str, Callable[[Function], Meaning | None]] = {
    "leaky_relu": _leaky_relu,
    "elu": _elu_family,
    "celu": _celu,
    "soft_relu": _soft_relu,
    "clip": _clip,
    "thresholded_relu": _thresholded_relu,
    "swish_beta": _swish_beta,
}
"""Families with parameters, which are read from the function; all channels are alike."""

BY_CHANNEL: dict[str, Callable[[Function], Meaning | None]] = {"prelu": _prelu, "swish_beta": _swish_beta}
"""Families whose parameters differ from channel to channel."""


def recognise(f: Function, name: str = "", linear: bool = False) -> tuple[str, Meaning] | None:
    """The key and meaning of an activation that computes `f`; None for a function that is none of them.

    With `linear` it may be the identity. Where two keys are the same function (ELU and CELU with α = 1), the name of
    the operator decides, `name`.
    """
    values = f(GRID)
    if not np.isfinite(values).all():
        return None
    families = BY_CHANNEL if len(values) > 1 else ALIKE
    if families is ALIKE:
        fixed = FIXED | (IDENTITY if linear else {})
        nearest = min(fixed, key=lambda key: _error(values, fixed[key]))
        if _error(values, fixed[nearest]) <= TOLERANCE:
            return nearest, fixed[nearest]
    fitted = {key: meaning for key, fit in families.items() if (meaning := fit(f)) is not None}
    fitting = {key: meaning for key, meaning in fitted.items() if _error(values, meaning) <= TOLERANCE}
    if not fitting:
        return None
    key = name.lower() if name.lower() in fitting else next(iter(fitting))
    return key, fitting[key]


def _at(f: Function, x: float) -> Values:
    return f(np.array([x]))[:, 0]


def _number(f: Function, x: float) -> float:
    """A parameter, as it was before it became a float32."""
    return float(f"{_at(f, x)[0]:.7g}")


def _error(values: Values, meaning: Meaning) -> float:
    with np.errstate(all="ignore"):
        return float((np.abs(values - meaning.formula(GRID)) / (1 + np.abs(values))).max())


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None
