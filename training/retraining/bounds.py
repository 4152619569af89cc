"""What the gates ask of a challenger."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """The numbers that the gates compare with."""

    margin: float = 0.02
    """Accuracy that the challenger may lose at most; that it loses less must be shown with confidence."""
    confidence: float = 0.95
    """Of the one-sided test of that."""
    class_floor: float = 0.5
    """Least accuracy in every class; of a class in which the champion has less, the champion's."""
    calibration_margin: float = 0.05
    """Expected calibration error that the challenger may have more than the champion."""
    slowdown: float = 1.25
    """Most run time of the challenger's graph, in run times of the champion's."""

    def __post_init__(self) -> None:
        rules = {
            "margin": (0 < self.margin < 1, "between 0 and 1"),
            "confidence": (0.5 <= self.confidence < 1, "from 0.5 to below 1"),
            "class_floor": (0 <= self.class_floor <= 1, "from 0 to 1"),
            "calibration_margin": (0 <= self.calibration_margin <= 1, "from 0 to 1"),
            "slowdown": (0 < self.slowdown < math.inf, "a finite number above 0"),
        }
        for name, (fine, expected) in rules.items():
            if not fine:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed: use {expected}")
