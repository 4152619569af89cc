"""The learning rate as a pure function of the step."""

import math


def warmed_cosine(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear from 0 to `peak` over `warmup` steps, then `peak`·(1 + cos πt)/2 to 0 at `steps`.

    Loshchilov & Hutter 2017.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (1 + math.cos(math.pi * done)) / 2
