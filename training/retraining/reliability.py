"""How often two versions failed to answer, and how sure it is that one does so more often."""

import math
from dataclasses import dataclass
from statistics import NormalDist

LEAST = 20
"""Requests of the canary before anything is said: the interval is too narrow for fewer."""
CONFIDENCE = 0.99
"""One-sided; high, for it is looked at again and again."""


@dataclass(frozen=True)
class Requests:
    """What became of the requests that one version got."""

    answered: int = 0
    failed: int = 0
    """For whatever reason; mistakes of clients are among them, and come to all versions alike."""

    @property
    def all(self) -> int:
        return self.answered + self.failed

    def since(self, before: "Requests") -> "Requests":
        """Those that came after `before` was counted; all there are where the service has begun to count anew."""
        if self.answered < before.answered or self.failed < before.failed:
            return self
        return Requests(self.answered - before.answered, self.failed - before.failed)


@dataclass(frozen=True)
class Answering:
    """The requests of two versions over the same time, drawn at random."""

    canary: Requests = Requests()
    champion: Requests = Requests()

    def since(self, before: "Answering") -> "Answering":
        return Answering(self.canary.since(before.canary), self.champion.since(before.champion))


def excess(answering: Answering, confidence: float = CONFIDENCE) -> float:
    """Lower end of the interval of the share of requests at which the canary fails more often than the champion.

    That of Agresti & Caffo for independent proportions: with p = (failed + 1)/(n + 2) of each and
    s² = Σ p(1 − p)/(n + 2), it is p₁ − p₂ − z·s. Am. Stat. 54 (2000) 280. −1 for fewer than `LEAST` of the canary.
    """
    if answering.canary.all < LEAST:
        return -1.0
    shares, variance = [], 0.0
    for requests in (answering.canary, answering.champion):
        n = requests.all + 2
        share = (requests.failed + 1) / n
        shares.append(share)
        variance += share * (1 - share) / n
    return shares[0] - shares[1] - NormalDist().inv_cdf(confidence) * math.sqrt(variance)


def unreliable(answering: Answering, most: float) -> str:
    """Why the canary fails too often, which is shown to be `most` more than the champion; empty if it is not."""
    if excess(answering) <= most:
        return ""
    canary, champion = answering.canary, answering.champion
    return (
        f"{canary.failed} of the {canary.all} requests that it got failed, and {champion.failed} of the champion's "
        f"{champion.all}: with {CONFIDENCE:.0%} confidence it fails in more than {most:.1%} more of them"
    )
