"""How a job ends, in words and as an exit code."""

from typing import Literal

from training.outcomes import Failure

Outcome = Literal["promoted", "outdated", "refused", "rolled_back"]
"""Outdated: there was nothing to do, because the finding is of a version that is not served any more."""

EXIT_CODES: dict[str, int] = {"promoted": 0, "outdated": 0, "refused": 3, "rolled_back": 4}


class ServiceUnreachableError(Failure):
    """The service does not answer; the job goes on when it is run again."""

    outcome, code = "unreachable", 5


class ServiceRefusesError(Failure):
    """The service answers, and will not: a key that is not for this, or control that is not allowed."""

    outcome, code = "forbidden", 6

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    @property
    def forbidden(self) -> bool:
        """Whether it is about who asks."""
        return self.status in (401, 403)


class BusyError(Failure):
    """Another process is at the same job."""

    outcome, code = "busy", 7


class NotWrittenError(Failure):
    """What should be kept cannot be written."""

    outcome, code = "not written", 8
