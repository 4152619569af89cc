"""How often each caller may ask."""

import time
from collections import OrderedDict
from collections.abc import Callable

# Callers that are remembered; of more, those that were silent longest are forgotten.
CALLERS = 65_536


class Rates:
    """A token bucket for each caller: `rate` requests a second in the long run, `burst` at once.

    Kept as one time for each caller (the generic cell rate algorithm): when its bucket will be full again.
    """

    def __init__(self, rate: float | None, burst: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    @property
    def limited(self) -> bool:
        """Whether there is a rate for callers without one of their own."""
        return self._rate is not None

    def wait(self, caller: str, rate: float | None = None) -> float:
        """Seconds until the caller may ask; 0 if now, and then it is counted. `rate` is the caller's own, if any."""
        rate = rate or self._rate
        if rate is None:
            return 0.0
        now = self._clock()
        full_at = max(self._full_at.get(caller, now), now)
        wait = full_at - now - ((self._burst or max(1.0, rate)) - 1) / rate
        if wait > 1e-9:
            return wait
        self._full_at[caller] = full_at + 1 / rate
        self._full_at.move_to_end(caller)
        if len(self._full_at) > CALLERS:
            self._full_at.popitem(last=False)
        return 0.0
