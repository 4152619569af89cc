"""Writes buckets in a thread of its own: whoever hands one over never waits, whatever the database does."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from service.history.database import without_password
from service.history.retention import DAY, HOUR, Retention
from service.history.store import HistoryStore
from service.history.tables import Row

logger = logging.getLogger("reslens")

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
# What waits for the database to come back; of a ResNet-20 some five hours.
MAX_PENDING_BYTES = 64 << 20
# A row that may have been written already, and merged into its hour since, must not be written again.
MAX_AGE = DAY - HOUR
ROWS_AT_ONCE = 32
RETENTION_SECONDS = 600.0


class Counts(NamedTuple):
    """What became of the buckets so far."""

    written: int
    pending: int
    given_up: int
    """Too many, or too old, when the database could not be written to for long."""
    failures: int
    """Attempts that failed."""


class HistoryWriter:
    """Writes rows in order, again and again until they are written or too many or too old wait."""

    def __init__(
        self,
        store: HistoryStore,
        retention: Retention,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        first_wait: float = FIRST_WAIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._retention = retention
        self._max_pending_bytes = max_pending_bytes
        self._first_wait = first_wait
        self._clock = clock
        self._pending: deque[Row] = deque()
        self._pending_bytes = 0
        self._written = self._given_up = self._failures = 0
        self._failing = False
        self._prepared = False
        self._retention_due = 0.0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def start(self) -> None:
        """The first thing done is to prepare the table; nobody waits for it."""
        self._thread.start()

    def offer(self, row: Row) -> None:
        """Take a row to write. When more wait than can be kept, the oldest are given up."""
        with self._changed:
            self._pending.append(row)
            self._pending_bytes += len(row.content)
            while self._pending_bytes > self._max_pending_bytes:
                self._give_up_oldest()
            self._changed.notify_all()

    @property
    def counts(self) -> Counts:
        with self._changed:
            return Counts(self._written, len(self._pending), self._given_up, self._failures)

    def close(self, seconds: float) -> None:
        """Write what waits, for at most so long."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)
        if pending := self.counts.pending:
            logger.warning("the history lacks %d buckets: they could not be written before the end", pending)

    def _run(self) -> None:
        wait = self._first_wait
        while not self._finished():
            try:
                self._step()
            except Exception as error:
                # Nothing that a database does may end this thread.
                self._failed(error)
                if not self._sleep(wait):
                    return
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                self._recovered()
                wait = self._first_wait
                self._sleep_until_due()
        self._store.close()

    def _step(self) -> None:
        if not self._prepared:
            self._store.prepare()
            self._prepared = True
        while rows := self._next_rows():
            self._store.write(rows)
            self._take_out(rows)
        if self._clock() >= self._retention_due and not self._closing:
            self._retention.apply(self._clock())
            self._retention_due = self._clock() + RETENTION_SECONDS

    def _next_rows(self) -> list[Row]:
        with self._changed:
            while self._pending and self._pending[0].start < self._clock() - MAX_AGE:
                self._give_up_oldest()
            return [self._pending[index] for index in range(min(len(self._pending), ROWS_AT_ONCE))]

    def _take_out(self, rows: list[Row]) -> None:
        """What was given up while it was written is not there any more."""
        with self._changed:
            self._written += len(rows)
            for row in rows:
                if self._pending and self._pending[0] is row:
                    self._pending.popleft()
                    self._pending_bytes -= len(row.content)
                else:
                    self._given_up -= 1

    def _give_up_oldest(self) -> None:
        self._pending_bytes -= len(self._pending.popleft().content)
        self._given_up += 1

    def _finished(self) -> bool:
        with self._changed:
            return self._closing and not self._pending

    def _sleep(self, seconds: float) -> bool:
        """False when there is no more time: at the end nothing is tried twice."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._closing, seconds)

    def _sleep_until_due(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or bool(self._pending), max(self._retention_due - self._clock(), 0)
            )

    def _failed(self, error: Exception) -> None:
        with self._changed:
            self._failures += 1
        # The database may be another one when it is back, or an empty one.
        self._prepared = False
        if not self._failing:
            # Once, not at every attempt: the counters say how long it lasts.
            place = without_password(self._store.engine)
            logger.warning("the history at %s cannot be written, it is tried again: %s", place, _short(error))
        self._failing = True

    def _recovered(self) -> None:
        if self._failing:
            logger.warning("the history at %s can be written again", without_password(self._store.engine))
        self._failing = False


def _short(error: Exception) -> str:
    """Without the statement and its values."""
    cause = getattr(error, "orig", None) or error
    return f"{type(cause).__name__}: {cause}".strip()
