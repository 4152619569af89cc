"""The process that sends an outbox to MLflow while a run goes on: `python -m training.tracking.sender FOLDER`.

Standard input is the life of the run: it ends with it. What is worth telling is a line of standard output.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from training.tracking.limits import short
from training.tracking.outbox import Outbox, Sent

if TYPE_CHECKING:
    from training.tracking.delivery import Delivery

INTERVAL = 2.0
"""Seconds from one look at the outbox to the next."""
LONGEST = 60.0
"""Between two attempts while the store does not answer."""
DEFAULTS = {
    # Attempts are made here, not in the client, which would try one request for minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    # It would send usage data.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    # Standard output is for what is worth telling.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
ATTEMPTS = 2
"""After the end of the run, in vain."""
LONGER = 300.0
"""Seconds after the end of the run for which a store may hang, where nobody is left who would not wait so long."""


def main() -> None:
    """Send until the run has ended and all is sent, or the store does not answer."""
    folder = Path(sys.argv[1])
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Who ends a job may ask all of its processes to: this one ends with the run, and has its end to tell.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Training is more urgent.
    os.nice(5)
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    # The sender of a run that was killed may not be done yet.
    with FileLock(folder / "lock"):
        left = Sending(folder, ended, _say).run()
    _say(f"{left} points are not sent yet: they are kept in {folder}, and --resume sends them" if left else "")
    # Whatever threads of MLflow wait for has no meaning any more.
    sys.stdout.flush()
    os._exit(0)


class Sending:
    """Tries again for as long as the run goes on."""

    def __init__(self, folder: Path, ended: threading.Event, say: Callable[[str], None]) -> None:
        self._folder, self._ended, self._say = folder, ended, say
        self._delivery: Delivery | None = None
        self._failures = 0
        self._told = False
        self._until = math.inf

    def run(self) -> int:
        """How many points are left."""
        while True:
            if over := self._ended.is_set():
                # What comes after that is of another run, with a sender of its own.
                self._until = min(self._until, Outbox(self._folder).size)
            if self._try(over):
                continue
            if not over:
                self._ended.wait(min(INTERVAL * 2**self._failures, LONGEST))
            elif 0 < self._failures < ATTEMPTS:
                time.sleep(INTERVAL)
            else:
                return Outbox(self._folder).waiting(self._sent.position)

    @property
    def _sent(self) -> Sent:
        return Sent() if self._delivery is None else self._delivery.sent

    def _try(self, over: bool) -> bool:
        """Whether something was sent."""
        try:
            if self._delivery is None:
                self._delivery = _delivery(self._folder, self._say)
            sent = self._delivery.next(self._until)
            if over and not sent:
                self._delivery.killed(self._until)
        # Whatever a store raises: training goes on.
        except Exception as error:
            self._failed(error)
            return False
        self._failures = 0
        return sent

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if not self._told:
            self._told = True
            self._say(
                f"MLflow cannot be told ({short(error)}): training goes on, and what there is to tell is kept in "
                f"{self._folder} until it can"
            )


def _delivery(folder: Path, say: Callable[[str], None]) -> "Delivery":
    # It takes seconds to import.
    from training.tracking.delivery import Delivery
    from training.tracking.store import Store

    return Delivery(folder, Store(), say)


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.buffer.read()
    ended.set()
    time.sleep(LONGER)
    # What is sent is known; the rest is for the next one, who waits for the lock.
    os._exit(1)


def _say(line: str) -> None:
    if line:
        print(line, flush=True)


if __name__ == "__main__":
    main()
