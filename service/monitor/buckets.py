"""The last hour of one model version, minute by minute."""

import threading
from collections import deque
from typing import NamedTuple

from models.statistics.window import Window, WindowReader

KEPT = 60
"""Closed buckets in memory."""
SECONDS = 60


class Bucket(NamedTuple):
    """A closed bucket: what was seen from `start` on. It never changes."""

    start: int
    """Seconds since 1970, a multiple of the length."""
    seconds: int
    images: int
    content: bytes

    @property
    def end(self) -> int:
        return self.start + self.seconds


class Span(NamedTuple):
    """Some buckets merged."""

    start: int
    end: int
    window: Window


class Buckets:
    """One open bucket and the closed ones before it; a bucket in which nothing came is not kept. Safe to share."""

    def __init__(self, reader: WindowReader, seconds: int = SECONDS, kept: int = KEPT) -> None:
        self._reader = reader
        self.seconds = seconds
        self._closed: deque[Bucket] = deque(maxlen=kept)
        self._closed_until = 0
        self._open_start = 0
        self._open: Window | None = None
        self._lock = threading.Lock()

    def add(self, window: Window, now: float) -> Bucket | None:
        """Count images that came at `now`; returns the bucket before, if that closes it."""
        start = self._start(now)
        with self._lock:
            closed = self._close() if self._open is not None and start > self._open_start else None
            if self._open is None:
                # A closed bucket never changes: what comes late for it is counted in the next.
                self._open_start, self._open = max(start, self._closed_until), window
            else:
                self._open = self._open.merged(window)
        return closed

    def close_before(self, now: float) -> Bucket | None:
        """Close the open bucket if its time is over."""
        with self._lock:
            return self._close() if self._open is not None and self._start(now) > self._open_start else None

    def close(self) -> Bucket | None:
        """Close the open bucket, whether its time is over or not."""
        with self._lock:
            return self._close() if self._open is not None else None

    def since(self, start: float) -> Span | None:
        """All buckets that reach beyond `start`, the open one too, merged; None without any."""
        buckets, unclosed = self.kept(start)
        windows = [self._reader.from_bytes(bucket.content) for bucket in buckets]
        starts, ends = [bucket.start for bucket in buckets], [bucket.end for bucket in buckets]
        if unclosed is not None:
            windows.append(unclosed.window)
            starts.append(unclosed.start)
            ends.append(unclosed.end)
        return Span(min(starts), max(ends), self._reader.merge(windows)) if windows else None

    def between(self, start: int, end: int) -> Span | None:
        """Closed buckets that began in [start, end), merged; None without any."""
        with self._lock:
            buckets = [bucket for bucket in self._closed if start <= bucket.start < end]
        if not buckets:
            return None
        return Span(start, end, self._reader.merge([self._reader.from_bytes(bucket.content) for bucket in buckets]))

    def kept(self, start: float) -> tuple[list[Bucket], Span | None]:
        """Closed buckets that reach beyond `start`, and the open one."""
        with self._lock:
            closed = [bucket for bucket in self._closed if bucket.end > start]
            if self._open is None or self._open_start + self.seconds <= start:
                return closed, None
            return closed, Span(self._open_start, self._open_start + self.seconds, self._open)

    @property
    def newest(self) -> int:
        """End of the newest bucket; 0 before any."""
        with self._lock:
            if self._open is not None:
                return self._open_start + self.seconds
            return self._closed[-1].end if self._closed else 0

    def _start(self, now: float) -> int:
        return int(now) // self.seconds * self.seconds

    def _close(self) -> Bucket:
        assert self._open is not None
        bucket = Bucket(self._open_start, self.seconds, self._open.images, self._open.to_bytes())
        self._closed.append(bucket)
        self._closed_until = bucket.end
        self._open = None
        return bucket
