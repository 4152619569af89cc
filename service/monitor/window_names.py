"""The windows that can be asked for."""

from service.errors import BadRequestError

MINUTE = 60
LIVE = {"1m": MINUTE, "5m": 5 * MINUTE, "15m": 15 * MINUTE, "1h": 60 * MINUTE}
"""Seconds; what this service saw, from memory."""
HISTORY = {"6h": 360 * MINUTE, "1d": 1440 * MINUTE, "7d": 7 * 1440 * MINUTE, "30d": 30 * 1440 * MINUTE}
"""Seconds; what all replicas saw, from the history."""


def check_window(name: str) -> None:
    """Raise `BadRequestError` that lists all windows, unless there is one of this name."""
    if name not in LIVE | HISTORY:
        raise BadRequestError(f"unknown window {name!r}; choose from {', '.join(LIVE | HISTORY)}")
