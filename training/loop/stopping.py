"""Ctrl-C and SIGTERM as a wish that is granted at the next step, when the state can be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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
