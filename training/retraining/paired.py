"""Two classifiers on the same images: by how much their accuracies differ, and how sure that is.

Of n images, `lost` were right with the champion alone and `won` with the challenger alone; all others say nothing about
the difference.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pairs:
    """What the same images said about both."""

    images: int
    lost: int
    won: int

    @classmethod
    def of(cls, champion: NDArray[np.bool_], challenger: NDArray[np.bool_]) -> "Pairs":
        """From whether each image was classified correctly."""
        return cls(len(champion), int((champion & ~challenger).sum()), int((~champion & challenger).sum()))

    @property
    def difference(self) -> float:
        """Accuracy of the challenger − accuracy of the champion."""
        return (self.won - self.lost) / self.images


@dataclass(frozen=True)
class Inferiority:
    """How well it is shown that the challenger loses less than the margin."""

    lower: float
    """Lower end of the one-sided interval of the difference."""
    p: float
    """Of the hypothesis that it loses the margin or more."""


def inferiority(pairs: Pairs, margin: float, confidence: float) -> Inferiority:
    """The interval of Bonett & Price: Wald's for paired proportions, after one image more was put into either cell.

    With p₁ = (won + 1)/(n + 2), p₂ = (lost + 1)/(n + 2) and s² = (p₁ + p₂ − (p₁ − p₂)²)/(n + 2), the lower end is
    p₁ − p₂ − z·s, and p = 1 − Φ((p₁ − p₂ + margin)/s): the lower end is above −margin exactly if p < 1 − confidence.
    J. Educ. Behav. Stat. 37 (2012) 479; recommended by Fagerland, Lydersen & Laake, Stat. Med. 33 (2014) 2850.
    """
    n = pairs.images + 2
    won, lost = (pairs.won + 1) / n, (pairs.lost + 1) / n
    difference = won - lost
    deviation = math.sqrt((won + lost - difference**2) / n)
    normal = NormalDist()
    lower = difference - normal.inv_cdf(confidence) * deviation
    return Inferiority(lower, 1 - normal.cdf((difference + margin) / deviation))


def mcnemar(pairs: Pairs) -> float:
    """Two-sided mid-p of the hypothesis that both have the same accuracy.

    Given that d = won + lost images differ, `won` is binomial(d, ½): twice the smaller tail, of which the observed
    number counts half. Lancaster 1961; Fagerland, Lydersen & Laake, BMC Med. Res. Methodol. 13 (2013) 91.
    """
    differing, fewer = pairs.won + pairs.lost, min(pairs.won, pairs.lost)
    tail = sum(math.comb(differing, count) for count in range(fewer + 1))
    # In whole numbers: 2^d has no float for d > 1023.
    return float(min(1.0, (2 * tail - math.comb(differing, fewer)) / 2**differing))
