"""What was asked for and is not there."""

import time

from models.repository import UnknownModelError, UnknownVersionError

SECONDS = 1.0
MOST = 1024


class Unknown:
    """Remembers the last `MOST` for so many seconds: the repository is not looked at for each of many such requests."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._errors: dict[tuple[str, int | None], tuple[float, UnknownModelError | UnknownVersionError]] = {}

    def check(self, name: str, version: int | None) -> None:
        """Raise what was raised for it a moment ago."""
        until, error = self._errors.get((name, version), (0.0, None))
        if error is not None and time.monotonic() < until:
            raise error.with_traceback(None)

    def add(self, name: str, version: int | None, error: UnknownModelError | UnknownVersionError) -> None:
        self._errors.pop((name, version), None)
        self._errors[name, version] = time.monotonic() + self._seconds, error
        if len(self._errors) > MOST:
            del self._errors[next(iter(self._errors))]

    def clear(self) -> None:
        """Something has changed."""
        self._errors.clear()
