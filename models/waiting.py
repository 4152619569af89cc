"""Waits for what may never answer."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Done = TypeVar("Done")

# How soon it is noticed that nobody wants to wait any more.
GLANCE_SECONDS = 0.1


class Waiting:
    """Does things of which each may take `seconds`, until it is closed."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._closed = threading.Event()

    def close(self) -> None:
        """Wait for nothing any more, in any thread."""
        self._closed.set()

    def within(self, work: Callable[[], Done]) -> Done:
        """Do something, and stop waiting for it after a time; raises `TimeoutError`, or what it raised."""
        results: list[Done] = []
        errors: list[Exception] = []
        ended = threading.Event()

        def run() -> None:
            try:
                results.append(work())
            except Exception as error:
                errors.append(error)
            finally:
                ended.set()

        # Not of a pool, whose threads would be waited for when the process ends.
        threading.Thread(target=run, daemon=True).start()
        end = time.monotonic() + self._seconds
        while not ended.wait(min(GLANCE_SECONDS, max(end - time.monotonic(), 0.0))):
            if self._closed.is_set():
                raise TimeoutError("the service ends, and waits for no answer")
            if time.monotonic() >= end:
                raise TimeoutError(f"no answer within {self._seconds:g} s")
        if errors:
            raise errors[0]
        return results[0]
