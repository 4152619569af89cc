"""What is done about the files of processes that have ended."""

import asyncio
import logging
from pathlib import Path

logger = logging.getLogger("reslens")

RETRY_SECONDS = 0.1


class Remains:
    """Keeps what they counted, in one file for all of them. Belongs to one event loop."""

    def __init__(self, metrics: Path) -> None:
        self._metrics = metrics
        self._gathering: set[asyncio.Task[None]] = set()

    def gather(self) -> None:
        """To be called when a process has ended; waits for nothing."""
        task = asyncio.create_task(self._gather())
        self._gathering.add(task)
        task.add_done_callback(self._gathering.discard)

    async def _gather(self) -> None:
        try:
            while not await asyncio.to_thread(_gathered, self._metrics):
                await asyncio.sleep(RETRY_SECONDS)
        except OSError as error:  # they are read where they are, and gathered when the next process ends
            logger.warning("the counts of processes that have ended could not be added up: %s", error)


def _gathered(metrics: Path) -> bool:
    # Not at the start: it takes a while to import.
    from service.monitor.ended import gather

    return gather(metrics)
