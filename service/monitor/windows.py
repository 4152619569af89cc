"""The windows that can be asked for, by name, and what was seen in them."""

import time
from typing import Literal, NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from models.statistics.window import Window
from service.errors import HistoryUnavailableError, NotFoundError
from service.history.store import HistoryStore
from service.monitor.buckets import Span
from service.monitor.watch import Watch
from service.monitor.window_names import HISTORY, LIVE, check_window


class Seen(NamedTuple):
    """The window of a name: all buckets that reach into it."""

    source: Literal["memory", "history"]
    span: Span | None
    """None when nothing was seen."""
    replicas: list[str]
    """Whose traffic it is."""
    unreadable: int
    """Rows of the history that are left out, because they cannot be read."""


class Windows:
    """Finds the windows of this process in memory and those of all in the history. May wait for the database."""

    def __init__(self, store: HistoryStore | None, replica: str) -> None:
        self._store = store
        self._replica = replica

    def seen(self, watch: Watch, name: str) -> Seen:
        """What was seen of a model; raises `BadRequestError`, `NotFoundError` or `HistoryUnavailableError`."""
        check_window(name)
        now = time.time()
        if name in LIVE:
            span = watch.buckets.since(now - LIVE[name])
            return Seen("memory", span, [self._replica] if span else [], 0)
        if self._store is None:
            raise NotFoundError(
                f"window {name!r} needs a history, and there is none: set RESLENS_HISTORY_URL, "
                f"or choose from {', '.join(LIVE)}"
            )
        try:
            return self._from_history(self._store, watch, now - HISTORY[name])
        except (SQLAlchemyError, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).strip()
            raise HistoryUnavailableError(
                f"the history cannot be read: {reason}; choose from {', '.join(LIVE)}"
            ) from error

    def _from_history(self, store: HistoryStore, watch: Watch, since: float) -> Seen:
        # Before the rows: a bucket that is written meanwhile is then in both, and counted once.
        closed, unclosed = watch.buckets.kept(since)
        merging = _Merging(watch)
        written = set()
        for row in store.read(watch.key, int(since)):
            merging.add(row.replica, row.start, row.start + row.seconds, row.content)
            if row.replica == self._replica:
                written.add(row.start)
        for bucket in closed:
            if bucket.start not in written:
                merging.add(self._replica, bucket.start, bucket.end, bucket.content)
        if unclosed is not None and unclosed.start not in written:
            merging.add(self._replica, unclosed.start, unclosed.end, unclosed.window)
        return merging.seen()


class _Merging:
    """Merges one window after the other, so that only two are in memory."""

    def __init__(self, watch: Watch) -> None:
        self._reader = watch.reader
        self._merged: Window | None = None
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._replicas: set[str] = set()
        self._unreadable = 0

    def add(self, replica: str, start: int, end: int, content: bytes | Window) -> None:
        try:
            window = content if isinstance(content, Window) else self._reader.from_bytes(content)
        except ValueError:
            self._unreadable += 1
            return
        self._merged = window if self._merged is None else self._merged.merged(window)
        self._starts.append(start)
        self._ends.append(end)
        self._replicas.add(replica)

    def seen(self) -> Seen:
        span = None if self._merged is None else Span(min(self._starts), max(self._ends), self._merged)
        return Seen("history", span, sorted(self._replicas), self._unreadable)
