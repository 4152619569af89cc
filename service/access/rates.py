"""How often each caller may ask."""

import time
from collections.abc import Callable

from service.access.slots import OwnSlots, Slots


class Rates:
    """A token bucket for each caller: `rate` requests a second in the long run, `burst` at once.

    Kept as one time for each caller (the generic cell rate algorithm): when its bucket will be full again. Several
    processes that share the slots count together; they need one clock, as the monotonic one of the system is.
    """

    def __init__(
        self,
        rate: float | None,
        burst: int | None,
        clock: Callable[[], float] = time.monotonic,
        slots: Slots | None = None,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._slots = OwnSlots() if slots is None else slots

    @property
    def limited(self) -> bool:
        """Whether there is a rate for callers without one of their own."""
        return self._rate is not None

    def wait(self, caller: str, rate: float | None = None) -> float:
        """Seconds until the caller may ask; 0 if now, and then it is counted. `rate` is the caller's own, if any."""
        rate = rate or self._rate
        if rate is None:
            return 0.0
        interval = 1 / rate
        most = ((self._burst or max(1.0, rate)) - 1) / rate
        wait = 0.0

        def count(full_at: float) -> float | None:
            nonlocal wait
            now = self._clock()
            full_at = max(full_at, now)
            wait = full_at - now - most
            return None if wait > 1e-9 else full_at + interval

        self._slots.update(caller, count)
        return wait if wait > 1e-9 else 0.0
