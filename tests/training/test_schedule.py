"""The learning rate, against its formula written out and against PyTorch's schedulers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from training.loop.schedule import Course, learning_rate, warmed_cosine

PEAK = 0.3


@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (7, 3), (50, 0), (5, 4), (1, 0), (2, 1)])
@pytest.mark.parametrize("peak", [0.1, 3.0])
def test_formula(steps: int, warmup: int, peak: float) -> None:
    rates = [warmed_cosine(step, steps, warmup, peak) for step in range(steps)]
    rise = peak * np.arange(1, warmup + 1) / max(warmup, 1)
    fall = peak * np.cos(np.pi / 2 * np.arange(steps - warmup) / (steps - warmup)) ** 2
    np.testing.assert_allclose(rates, np.concatenate([rise, fall]), rtol=1e-12)


def test_rises_to_the_peak_and_falls_to_almost_nothing() -> None:
    rates = np.array([warmed_cosine(step, 1000, 100, 0.2) for step in range(1000)])
    assert rates.max() == 0.2
    assert np.all(np.diff(rates[:100]) > 0)
    assert np.all(np.diff(rates[100:]) < 0)
    assert 0 < rates[-1] < 1e-5
    assert warmed_cosine(1000, 1000, 100, 0.2) == pytest.approx(0, abs=1e-15)


def rates_of(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], steps: int) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    scheduler = make(optimiser)
    found = []
    for _ in range(steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return found


STEPS, WARMUP = 40, 8
REFERENCES: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "cosine": lambda optimiser: lr_scheduler.CosineAnnealingLR(optimiser, STEPS - WARMUP),
    "multi_step": lambda optimiser: lr_scheduler.MultiStepLR(optimiser, [20 - WARMUP, 30 - WARMUP], 0.1),
    "constant": lambda optimiser: lr_scheduler.ConstantLR(optimiser, factor=1.0),
}


@pytest.mark.parametrize("schedule", REFERENCES)
def test_equals_pytorch_after_a_linear_warm_up(schedule: str) -> None:
    def make(optimiser: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        rise = lr_scheduler.LinearLR(optimiser, 1 / WARMUP, 1.0, WARMUP - 1)
        return lr_scheduler.SequentialLR(optimiser, [rise, REFERENCES[schedule](optimiser)], [WARMUP])

    course = Course(STEPS, WARMUP, PEAK, (0.5, 0.75), 0.1)
    ours = [learning_rate(schedule, step, course) for step in range(STEPS)]
    np.testing.assert_allclose(ours, rates_of(make, STEPS), rtol=1e-6, atol=1e-9)


def test_one_cycle_equals_pytorch() -> None:
    def make(optimiser: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        return lr_scheduler.OneCycleLR(optimiser, PEAK, STEPS, pct_start=WARMUP / STEPS, cycle_momentum=False)

    ours = [learning_rate("one_cycle", step, Course(STEPS, WARMUP, PEAK)) for step in range(STEPS)]
    np.testing.assert_allclose(ours, rates_of(make, STEPS), rtol=1e-6, atol=1e-9)


def test_the_paper_lowers_its_rate_twice() -> None:
    """He 2015: 0.1, divided by 10 at 32k and 48k of 64k iterations."""
    course = Course(64_000, 0, 0.1, (0.5, 0.75), 0.1)
    rates = [learning_rate("multi_step", step, course) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_the_paper_warms_110_layers_up_at_a_tenth() -> None:
    """He 2015: 0.01 for about 400 iterations, then 0.1 and on with the schedule as before."""
    course = Course(64_000, 400, 0.1, (0.5, 0.75), 0.1)
    rates = [learning_rate("low_multi_step", step, course) for step in (0, 399, 400, 31_999, 32_000, 48_000)]
    assert rates == pytest.approx([0.01, 0.01, 0.1, 0.1, 0.01, 0.001])


def test_an_unknown_schedule() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'step'; choose from cosine, one_cycle, multi_step"):
        learning_rate("step", 0, Course(1, 0, 1.0))
