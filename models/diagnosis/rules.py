"""The catalogue of rules: each takes a window and a baseline and yields findings."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from models.diagnosis import blocks, channels, drift, magnitudes, rank, saturation, unusual
from models.diagnosis.case import Case
from models.diagnosis.finding import Finding, Severity


class Rule(NamedTuple):
    """One way in which a network can be wrong."""

    judge: Callable[[Case], Iterable[Finding]]
    images: int
    """Least number of images to judge by; `Thresholds.minimum_images` overrides it."""
    severity: Severity
    """The gravest that it gives."""
    needs_baseline: bool
    description: str


RULES: dict[str, Rule] = {
    "not_finite": Rule(
        magnitudes.not_finite, 1, "critical", False, "activations or logits are infinite or NaN in some image"
    ),
    "half_precision": Rule(
        magnitudes.half_precision, 1, "critical", False, "the largest activation of an fp16 layer exceeds 8192"
    ),
    "exploding": Rule(magnitudes.exploding, 100, "warning", True, "RMS above 4 times the baseline's"),
    "vanishing": Rule(magnitudes.vanishing, 100, "warning", True, "RMS below a quarter of the baseline's"),
    "dead_channels": Rule(
        channels.dead_channels,
        3000,
        "critical",
        False,
        "channels that fired in no image, though the baseline saw them fire too often for that to be chance",
    ),
    "dormant_channels": Rule(
        channels.dormant_channels,
        1000,
        "warning",
        False,
        "channels whose E|h| is at most 0.025 of their layer's mean, and was at least twice that",
    ),
    "dying_layer": Rule(
        channels.dying_layer,
        1000,
        "critical",
        False,
        "channels active in less than 1 % of the images: more than half of a layer, or 10 points above the baseline",
    ),
    "saturation": Rule(
        saturation.saturation,
        100,
        "critical",
        False,
        "more than half of a layer's channels saturated in 95 % of their values, or 10 points more saturated values "
        "than the baseline",
    ),
    "mean_shift": Rule(
        magnitudes.mean_shift,
        1000,
        "warning",
        True,
        "the channels' means hold more than 60 % of a layer's energy, and more than 99 % of the baseline's images",
    ),
    "low_rank": Rule(
        rank.low_rank, 1000, "warning", True, "effective rank below half of the baseline's and below its 1 % quantile"
    ),
    "branch_ignored": Rule(
        blocks.branch_ignored,
        100,
        "warning",
        True,
        "a residual branch adds less than 5 % to its shortcut, and less than a quarter of the baseline's share",
    ),
    "drift": Rule(
        drift.drift,
        200,
        "warning",
        True,
        "a scalar moved beyond the chance of the largest of all, and by 0.1 σ (or 5 % of the channels by 0.2 σ)",
    ),
    "class_mix": Rule(
        drift.class_mix,
        200,
        "warning",
        True,
        "a predicted class became more or less frequent beyond chance, and a tenth of the images changed class",
    ),
    "out_of_distribution": Rule(
        unusual.out_of_distribution, 200, "critical", True, "more than 3 % of the images have p < 0.01 (1 % is usual)"
    ),
}
