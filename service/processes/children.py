"""The processes that a supervisor has, each started again when it falls over."""

import asyncio
import logging
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

logger = logging.getLogger("reslens")

# A process that lived shorter than this fell over at its start: the next one waits, longer each time.
SHORT_LIFE_SECONDS = 10.0
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 30.0


class Child:
    """One place in the service, and the process that fills it."""

    def __init__(
        self,
        title: str,
        start: Callable[[], BaseProcess],
        lost: Callable[[], None],
    ) -> None:
        self.title = title
        self.process: BaseProcess | None = None
        self._start = start
        self._lost = lost
        self._started = 0.0
        self._wait = FIRST_WAIT_SECONDS
        self._ends = False
        self._gone = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._again = None
        self._started = time.monotonic()
        try:
            self.process = self._start()
        except OSError as error:  # no memory, or no more processes
            self._wait_longer(0.0)
            logger.error("%s could not be started: %s; again in %.1f s", self.title, error, self._wait)
            self._again = loop.call_later(self._wait, self.start)
            return
        loop.add_reader(self.process.sentinel, self._fell)

    def expect_end(self) -> None:
        """It is told to end: do not start it again."""
        self._ends = True
        if self._again is not None:
            self._again.cancel()
        if self.process is None or not self.process.is_alive():
            self._gone.set()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    async def ended(self, seconds: float) -> None:
        """Wait for its end, and then no longer."""
        try:
            await asyncio.wait_for(self._gone.wait(), seconds)
        except TimeoutError:
            logger.error("%s did not end within %.0f s, and is killed", self.title, seconds)
            self.kill()
            await self._gone.wait()

    def _fell(self) -> None:
        process = self.process
        assert process is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(process.sentinel)
        process.join()
        self._lost()
        if self._ends:
            self._gone.set()
            return
        lived = time.monotonic() - self._started
        self._wait_longer(lived)
        logger.error(
            "%s (process %s) ended with %s after %.0f s; the next one starts in %.1f s",
            self.title,
            process.pid,
            process.exitcode,
            lived,
            self._wait,
        )
        self._again = loop.call_later(self._wait, self.start)

    def _wait_longer(self, lived: float) -> None:
        self._wait = FIRST_WAIT_SECONDS if lived > SHORT_LIFE_SECONDS else min(2 * self._wait, LONGEST_WAIT_SECONDS)
