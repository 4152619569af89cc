"""On what terms a request waits: how urgent it is, until when, and whether anybody still wants its answer."""

from collections.abc import Callable
from typing import NamedTuple

# Levels of priority, 1 the highest; requests that name none are in the middle, so that others can say that they hurry
# less. A number beyond the lowest means the lowest.
DEFAULT_LEVEL = 5
LOWEST_LEVEL = 9
# What a level is worth: whoever came so much earlier goes first though one level lower.
LEVEL_NS = 1_000_000_000


def never() -> bool:
    return False


class Terms(NamedTuple):
    priority: int = 0
    """1 is the highest; 0 stands for the default."""
    deadline: float | None = None
    """In seconds of the event loop's clock: what still waits then is not computed."""
    gone: Callable[[], bool] = never
    """Whether the client has left."""

    def due(self, came_ns: int) -> int:
        """The time by which requests are put in order: came + level · 1 s.

        Within a level that is the order in which they came, and a lower level never starves: of what comes later than
        the difference of the levels, nothing overtakes it.
        """
        return came_ns + LEVEL_NS * (min(self.priority, LOWEST_LEVEL) or DEFAULT_LEVEL)
