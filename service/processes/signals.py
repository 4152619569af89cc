"""What signals mean to the processes that have a supervisor."""

import signal


def ignore_signals() -> None:
    """Leave it to the supervisor to end this process: a terminal's Ctrl-C and some managers signal them all at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
