"""What can be said of differences between groups of runs: spreads, paired tests, and many of them at once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
TEST = (
    "two-sided paired t test over the seeds that both groups finished; interval of 95 % from the same t distribution; "
    "p-values corrected by Holm (1979) over all comparisons of the report"
)


@dataclass(frozen=True)
class Spread:
    """Of one figure over seeds."""

    mean: float
    std: float | None
    """Of the sample, with n − 1; None for one seed."""
    runs: int


@dataclass(frozen=True)
class Comparison:
    """Of one group with the baseline, seed by seed: accuracy minus the baseline's."""

    difference: float
    """Mean of the paired differences."""
    low: float | None
    high: float | None
    """Interval of 95 %; None where there are fewer than two pairs, or all differences are the same."""
    p: float | None
    pairs: int
    p_holm: float | None = None
    """Corrected for all comparisons that were made together."""


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean and standard deviation of the numbers there are; None where there are none."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    deviation = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    return Spread(float(np.mean(numbers)), deviation, len(numbers))


def compare(group: Mapping[int, float], baseline: Mapping[int, float]) -> Comparison | None:
    """Both by seed; None where they have no seed in common."""
    seeds = sorted(group.keys() & baseline.keys())
    if not seeds:
        return None
    differences = np.array([group[seed] - baseline[seed] for seed in seeds])
    mean = float(differences.mean())
    # Equal differences, whose spread is rounding, are no sample that a t distribution knows.
    if len(seeds) < 2 or np.ptp(differences) < 1e-12:
        return Comparison(mean, None, None, None, len(seeds))
    result = stats.ttest_1samp(differences, 0.0)
    interval = result.confidence_interval(CONFIDENCE)
    return Comparison(mean, float(interval.low), float(interval.high), float(result.pvalue), len(seeds))


def holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with `p_holm`: the i-th smallest of m times m − i + 1, at least those before it, at most 1."""
    tested = [index for index, comparison in enumerate(comparisons) if comparison.p is not None]
    corrected = list(comparisons)
    highest = 0.0
    for rank, index in enumerate(sorted(tested, key=lambda index: comparisons[index].p or 0.0)):
        p = comparisons[index].p
        assert p is not None
        highest = min(1.0, max(highest, p * (len(tested) - rank)))
        corrected[index] = replace(comparisons[index], p_holm=highest)
    return corrected


def smallest_exact(pairs: int) -> float:
    """The smallest two-sided p-value that a sign-flip test of so many pairs can give."""
    return math.ldexp(1.0, 1 - pairs)
