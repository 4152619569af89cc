"""What keeps the history small: minutes become hours after a day, and everything goes in the end."""

import logging
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Connection, and_, delete, func, select

from models.statistics.window import Window
from service.history.database import lock_for_retention
from service.history.store import HistoryStore, same_graph
from service.history.tables import BUCKETS, MERGED, Key, Row

logger = logging.getLogger("reslens")

DAY, HOUR = 86_400, 3600
# Rows dropped at once while the history is too large.
OLDEST = 64


class Retention(NamedTuple):
    """Which rows go, and when. Every step is a transaction of its own, and only one process is in one at a time."""

    store: HistoryStore
    days: float
    """How long rows are kept."""
    bytes: int
    """How much of them: beyond it the oldest are dropped."""

    def apply(self, now: float) -> None:
        """Merge and drop what is due. Raises what the database raises: what was done by then stays done."""
        self._drop_before(now - self.days * DAY)
        last_hour = int(now - DAY) // HOUR * HOUR
        for key, hour in self._mergeable(last_hour):
            if not self._merge(key, hour):
                return
        while self.store.size() > self.bytes and self._drop_oldest():
            pass

    def _drop_before(self, end: float) -> None:
        with self.store.engine.begin() as connection:
            if lock_for_retention(connection):
                connection.execute(delete(BUCKETS).where(BUCKETS.c.start + BUCKETS.c.seconds <= int(end)))

    def _mergeable(self, end: int) -> list[tuple[Key, int]]:
        hour = (BUCKETS.c.start - BUCKETS.c.start % HOUR).label("hour")
        keys = [BUCKETS.c[name] for name in Key._fields]
        with self.store.engine.begin() as connection:
            rows = connection.execute(
                select(*keys, hour).where(BUCKETS.c.start < end, BUCKETS.c.seconds < HOUR).distinct()
            ).all()
        return [(Key(*row[:-1]), int(row.hour)) for row in rows]

    def _merge(self, key: Key, hour: int) -> bool:
        """Make one row of an hour's; false when another process is at it."""
        inside = and_(*same_graph(key), BUCKETS.c.start >= hour, BUCKETS.c.start < hour + HOUR)
        with self.store.engine.begin() as connection:
            if not lock_for_retention(connection):
                return False
            removed = connection.scalars(delete(BUCKETS).where(inside).returning(BUCKETS.c.content))
            merged = _merged(removed, key, hour)
            if merged:
                _insert(connection, Row(key, MERGED, hour, HOUR, merged.images, merged.to_bytes()))
        return True

    def _drop_oldest(self) -> bool:
        """Drop some rows; false when there are none, or another process is at it."""
        with self.store.engine.begin() as connection:
            if not lock_for_retention(connection):
                return False
            starts = select(BUCKETS.c.start).order_by(BUCKETS.c.start).limit(OLDEST).subquery()
            newest = connection.scalar(select(func.max(starts.c.start)))
            if newest is None:
                return False
            connection.execute(delete(BUCKETS).where(BUCKETS.c.start <= newest))
        return True


def _insert(connection: Connection, row: Row) -> None:
    connection.execute(BUCKETS.insert(), row.values())


def _merged(contents: Iterable[bytes], key: Key, hour: int) -> Window | None:
    """All windows that can be read, merged; None without any."""
    merged = None
    for content in contents:
        try:
            window = Window.from_bytes(content)
            merged = window if merged is None else merged.merged(window)
        # Of another release, perhaps, which measured other things.
        except (KeyError, ValueError) as error:
            logger.warning("a row of %r version %d is left out of its hour %d: %s", key.model, key.version, hour, error)
    return merged
