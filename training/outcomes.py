"""How a command can end: the errors that are not a user's mistake, and the exit code of each."""

import signal
from typing import Any, ClassVar

DONE, CRASHED, MISTAKE = 0, 1, 2


class Failure(Exception):  # noqa: N818
    """What ended a command, with its name in reports and its exit code."""

    outcome: ClassVar[str]
    code: ClassVar[int]


class DivergedError(Failure, ValueError):
    """The loss is no number any more."""

    outcome, code = "diverged", 3


class UnwritableError(Failure, OSError):
    """What should be kept cannot be written: the disk is full, say."""

    outcome, code = "not written", 4


class LostProcessError(Failure):
    """Another process of the job is gone."""

    outcome, code = "lost process", 5


class Terminated(KeyboardInterrupt):
    """SIGTERM where there was nothing to save: as Ctrl-C, and with a code of its own."""


class StoppedError(Failure):
    """A signal asked for the end, and the state was saved."""

    outcome = "stopped"

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


def exit_code(error: BaseException) -> int:
    """As shells have it, 128 and the number of the signal, for what a signal ended."""
    if isinstance(error, StoppedError):
        return 128 + error.signal
    if isinstance(error, KeyboardInterrupt):
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    if isinstance(error, Failure):
        return error.code
    return MISTAKE if isinstance(error, ValueError | OSError) else CRASHED


def ending(error: BaseException | None) -> dict[str, Any]:
    """What a report says of the end."""
    if error is None:
        return {"outcome": "done", "exit_code": DONE}
    return {"outcome": outcome(error), "exit_code": exit_code(error), "message": str(error)}


def outcome(error: BaseException) -> str:
    """In a word or two."""
    if isinstance(error, Failure):
        return error.outcome
    names = {MISTAKE: "mistake", CRASHED: "crashed"}
    return names.get(exit_code(error), "interrupted")
