"""The names of the models, for errors that list them."""

import asyncio
import time
from collections.abc import Callable

from anyio import to_thread

SECONDS = 1.0


class Names:
    """Looks them up once in so many seconds, however many errors list them. Belongs to one event loop."""

    def __init__(self, look: Callable[[], list[str]], seconds: float = SECONDS) -> None:
        self._look = look
        self._seconds = seconds
        self._looking: asyncio.Task[list[str]] | None = None
        self._until = 0.0

    async def recent(self) -> list[str]:
        """As they were a moment ago."""
        if self._looking is None or time.monotonic() >= self._until:
            self._looking = asyncio.create_task(to_thread.run_sync(self._look))
            self._until = time.monotonic() + self._seconds
        return await self._looking
