"""What a diagnosis says: findings with their evidence, and what could not be judged."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from models.statistics.scalars import PREDICTION

__all__ = ["MODEL", "PREDICTION", "Diagnosis", "Evidence", "Finding", "Severity", "Unjudged"]

MODEL = "model"
"""The part of a finding about the network as a whole."""

Severity = Literal["critical", "warning", "info"]
Evidence = dict[str, float | int | str | list[int]]


class Part(BaseModel):
    """Base of everything here: immutable."""

    model_config = ConfigDict(frozen=True)


class Finding(Part):
    """One thing that is wrong, in one part of the network."""

    rule: str
    """Key of the catalogue, e.g. `dead_channels`."""
    part: str
    """A layer, a block, `prediction` or `model`."""
    severity: Severity
    cause: str
    """One plain sentence: "layer3.0.act1: 41 of 64 channels dead (baseline 3)"."""
    value: float | None
    """What was measured; null where it is not finite."""
    baseline: float | None
    """The same in the baseline; null without one."""
    interval: tuple[float, float] | None
    """95 % interval of the value; null where it is certain."""
    images: int
    """Images of the window."""
    evidence: Evidence
    """Further numbers; lists of channels are cut off after 32."""


class Unjudged(Part):
    """A rule that could not be applied, and why."""

    rule: str
    images: int
    needed: int
    """Images that the rule needs."""
    reason: str
    """ "not enough data: 120 of 3000 images", or "no baseline: …"."""


class Diagnosis(Part):
    """The findings of one window, the gravest first, and the rules that could not be applied."""

    images: int
    findings: list[Finding]
    unjudged: list[Unjudged]
