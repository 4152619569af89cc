"""Looks at the repository from time to time."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable

from models.repository import RepositoryError
from service.errors import ServiceError

logger = logging.getLogger("reslens")

MODELS_AT_ONCE = 2


async def follow_each(names: Iterable[str], follow: Callable[[str], Awaitable[None]]) -> None:
    """Follow models, two at a time: while one replica tries one, another tries or loads the other."""
    turns = asyncio.Semaphore(MODELS_AT_ONCE)

    async def in_turn(name: str) -> None:
        async with turns:
            with contextlib.suppress(ServiceError, RepositoryError):
                await follow(name)

    await asyncio.gather(*map(in_turn, names))


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
