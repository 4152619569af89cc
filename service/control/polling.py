"""Looks at the repository from time to time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger("reslens")


class Polling:
    """Calls `poll` until it is closed, `seconds` after it last ended; whatever it raises is logged and outlived."""

    def __init__(self, poll: Callable[[], Awaitable[None]], seconds: float) -> None:
        self._poll = poll
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._forever())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self._poll()
            except Exception:  # what is wrong with one look need not be wrong with the next
                logger.exception("the repository could not be looked at")
