"""Which requests are watched, and what takes their outputs off the request's path."""

import logging
import random
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from service.monitor.subject import Subject
from service.runtime.model import Tensors

logger = logging.getLogger("reslens")

# The outputs of one batch of 32 are 0.4 MB for a ResNet-20 and 14 MB for a ResNet-50.
MAX_PENDING_BYTES = 64 << 20


class Sample(NamedTuple):
    """The outputs of one instrumented run."""

    model: Subject
    outputs: Tensors
    time: float
    """Seconds since 1970."""

    @property
    def bytes(self) -> int:
        return sum(values.nbytes for values in self.outputs.values())


class Sampling:
    """Takes a share of all requests, and hands their outputs to `reduce`, one by one, in a thread of its own."""

    def __init__(
        self, share: float, reduce: Callable[[Sample], None], max_pending_bytes: int = MAX_PENDING_BYTES
    ) -> None:
        self._share = share
        self._reduce = reduce
        self._max_pending_bytes = max_pending_bytes
        self._random = random.Random()
        self._pending: deque[Sample] = deque()
        self._pending_bytes = 0
        self._busy = self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="sampling", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def takes(self) -> bool:
        """Whether this request is watched: decided by chance for each alone."""
        return self._random.random() < self._share

    def offer(self, sample: Sample) -> bool:
        """Hand over the outputs of a run; false when too many wait already. Never waits for their reduction."""
        size = sample.bytes
        with self._changed:
            if self._pending_bytes + size > self._max_pending_bytes:
                return False
            self._pending.append(sample)
            self._pending_bytes += size
            self._changed.notify_all()
        return True

    def drain(self, seconds: float) -> bool:
        """Wait until all that was offered is reduced; false when that took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending and not self._busy, seconds)

    def close(self, seconds: float) -> None:
        """Reduce what waits, for at most so long."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while (sample := self._next()) is not None:
            try:
                self._reduce(sample)
            except Exception:
                # One strange batch must not end the watching of all others.
                logger.exception("a sample of %r could not be reduced", sample.model.manifest.name)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self) -> Sample | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or bool(self._pending))
            if not self._pending:
                return None
            sample = self._pending.popleft()
            self._pending_bytes -= sample.bytes
            self._busy = True
            return sample
