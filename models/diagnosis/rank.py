"""Layers whose channels vary together in fewer directions than they did."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from models.diagnosis.case import Case
from models.diagnosis.drift import drift
from models.diagnosis.finding import Finding
from models.statistics.spread import Spread

DRAWS = 200
_SEED = 20261121


def low_rank(case: Case) -> Iterator[Finding]:
    """Effective rank below half of the baseline's, and below the 1 % quantile of what the baseline gives at equal n.

    The participation ratio r = (tr S)²/tr S² of n images is too small: for normal images 1/r = 1/R + 1/n, R that of
    infinitely many. Both sides are freed of 1/n. The quantile is that of `DRAWS` Wishart matrices with the baseline's
    covariance: images that are heavier-tailed than normal vary more, which the first condition has to bear.

    Fewer classes span fewer directions, and the rank of the baseline with another class mix is not known: where the mix
    has changed and the layer did not drift beyond it, a lost rank is information.
    """
    for site, now, before in case.layers():
        assert before is not None
        value, known = _unbiased(now.spread.rank, now.spread.count), _unbiased(before.spread.rank, before.spread.count)
        # Most windows are nowhere near: the draws are for those that are.
        if not value < case.thresholds.rank_loss * known:
            continue
        low = float(np.quantile(_draws(before.spread, now.spread.count), 0.01))
        if value >= low:
            continue
        interval = np.quantile(_draws(now.spread, now.spread.count), (0.025, 0.975))
        yield Finding(
            rule="low_rank",
            part=site.name,
            severity="info" if _may_be_the_mix(case, site.name) else "warning",
            cause=f"{site.name}: the channels vary in {value:.1f} directions (baseline {known:.1f})"
            + (", class mix changed too, and cannot be told apart" if case.comparison.mix_changed else ""),
            value=value,
            baseline=known,
            interval=(float(interval[0]), float(interval[1])),
            images=case.images,
            evidence={"baseline_p1": low, "dimensions": len(now.spread.mean)},
        )


def _may_be_the_mix(case: Case, part: str) -> bool:
    return case.comparison.reweighted and all(finding.part != part for finding in drift(case))


def _unbiased(rank: float, count: int) -> float:
    """R of 1/r = 1/R + 1/n; NaN where there is no rank."""
    inverse = 1 / rank - 1 / count if count else np.nan
    return float(1 / inverse) if inverse > 0 else float("nan")


def _draws(spread: Spread, count: int) -> NDArray[np.float64]:
    """Ranks, freed of 1/n, of `count` normal images with this covariance.

    By Bartlett's decomposition, S = L A Aᵀ Lᵀ with A lower triangular: χ on its diagonal, N(0, 1) below.
    """
    generator = np.random.default_rng(_SEED)
    values, vectors = np.linalg.eigh(spread.scatter / (spread.count - 1))
    root = vectors * np.sqrt(np.maximum(values, 0))
    size, freedom = len(root), count - 1
    ranks = []
    for _ in range(DRAWS):
        lower = np.tril(generator.standard_normal((size, size)), -1)
        lower[np.diag_indices(size)] = np.sqrt(generator.chisquare(np.maximum(freedom - np.arange(size), 1)))
        half = root @ lower
        gram = half.T @ half
        ranks.append(_unbiased(float(np.trace(gram)) ** 2 / float((gram**2).sum()), count))
    return np.array(ranks)
