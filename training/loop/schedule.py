"""The learning rate as a pure function of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Course:
    """What a schedule may depend on beside the step."""

    steps: int
    """In all."""
    warmup: int
    """Of them, on which the rate rises."""
    peak: float
    milestones: tuple[float, ...] = ()
    """Shares of all steps after which the rate falls, for `multi_step`."""
    drop: float = 0.1
    """What it is multiplied with there."""


def warmed_cosine(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear from 0 to `peak` over `warmup` steps, then `peak`·(1 + cos πt)/2 to 0 at `steps`.

    Loshchilov & Hutter 2017.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (1 + math.cos(math.pi * done)) / 2


def cosine(step: int, course: Course) -> float:
    """See `warmed_cosine`."""
    return warmed_cosine(step, course.steps, course.warmup, course.peak)


def one_cycle(step: int, course: Course) -> float:
    """From a 25th of the peak up to it over the warm-up, and down to a 250,000th, on half cosines (Smith 2017).

    As PyTorch's `OneCycleLR` has it, the momentum left alone; a warm-up of one step or none begins at the peak.
    """
    top = max(course.warmup - 1, 0)
    low, end = course.peak / 25, course.peak / 250_000
    if step < top:
        return _anneal(low, course.peak, step / top)
    return _anneal(course.peak, end, (step - top) / max(1, course.steps - 1 - top))


def multi_step(step: int, course: Course) -> float:
    """The peak, times `drop` after each share `milestones` of all steps; the warm-up is linear."""
    if step < course.warmup:
        return course.peak * (step + 1) / course.warmup
    passed = sum(step >= round(share * course.steps) for share in course.milestones)
    return course.peak * course.drop**passed


def low_multi_step(step: int, course: Course) -> float:
    """As `multi_step`, but all of the warm-up is at `drop` times the peak (He 2015: 0.01, for 110 layers)."""
    return course.peak * course.drop if step < course.warmup else multi_step(step, course)


def constant(step: int, course: Course) -> float:
    """The peak after a linear warm-up."""
    return course.peak * (step + 1) / course.warmup if step < course.warmup else course.peak


def _anneal(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


SCHEDULES: dict[str, Callable[[int, Course], float]] = {
    "cosine": cosine,
    "one_cycle": one_cycle,
    "multi_step": multi_step,
    "low_multi_step": low_multi_step,
    "constant": constant,
}


def learning_rate(schedule: str, step: int, course: Course) -> float:
    """Of `step`, counted from 0; raises `ValueError` for an unknown schedule."""
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; choose from {', '.join(SCHEDULES)}")
    return SCHEDULES[schedule](step, course)
