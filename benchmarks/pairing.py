"""Interleaved measurement: every round runs every arm once, and only ratios within a round are compared.

On a shared machine the speed drifts from second to second; arms of one round see the same drift.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """Median of the paired ratios with its 95 % bootstrap interval over rounds."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interleave(
    arms: Mapping[str, Callable[[], float | tuple[float, ...]]], rounds: int, warm_up: int = 1
) -> dict[str, NDArray[np.float64]]:
    """Run every arm once a round, each time in another order, and return each arm's measurements by round.

    An arm that measures several things gives a column for each.
    """
    names = list(arms)
    random = np.random.default_rng(0)
    measured: dict[str, list[float | tuple[float, ...]]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        for name in random.permutation(names).tolist():
            value = arms[name]()
            if number >= 0:
                measured[name].append(value)
    return {name: np.array(values) for name, values in measured.items()}


def paired_ratio(measured: NDArray[np.float64], reference: NDArray[np.float64]) -> Ratio:
    """How `measured` compares with `reference`, round by round."""
    ratios = measured / reference
    random = np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (RESAMPLES, len(ratios))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))


def ratio_cell(times: Mapping[str, NDArray[np.float64]], arm: str, reference: str) -> str:
    """The ratio of two arms for a table; a dash where one of them was not measured."""
    return str(paired_ratio(times[arm], times[reference])) if {arm, reference} <= times.keys() else "–"
