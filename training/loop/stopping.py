"""Ctrl-C and SIGTERM: a wish that is granted at the next step, when the state can be saved, or the end at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from training.outcomes import Terminated

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """The signal that asked for the end, if one did."""

    signal: int | None = None

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            # Asked twice: whoever does so will not wait.
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that it can still be said how it ended; but where `stop_signals` is."""

    def end(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Listen while the block runs; outside of the main thread, which gets the signals, nothing is heard."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop._ask) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
