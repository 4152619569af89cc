"""Watches live traffic: a share of all requests, minute by minute, judged, remembered and reported.

Nothing here is on a request's path but one random number and, for a request that is watched, handing over its outputs.
"""

import logging
import os
import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING

from models.diagnosis.finding import Severity
from models.diagnosis.thresholds import Thresholds
from service.history.tables import Key, Row
from service.history.writer import HistoryWriter
from service.monitor.buckets import KEPT, SECONDS, Bucket
from service.monitor.meters import Meters
from service.monitor.sampling import Sample, Sampling
from service.monitor.subject import Subject
from service.monitor.watch import Watch, key_of
from service.runtime.model import Tensors
from service.runtime.observation import Observer

if TYPE_CHECKING:
    from service.monitor.webhook import Webhook

logger = logging.getLogger("reslens")

# How long each part may take to end.
CLOSE_SECONDS = 3.0


class Traffic:
    """The watches of all models that had traffic within the hour, and the threads that keep them."""

    def __init__(
        self,
        meters: Meters,
        share: float,
        thresholds: Thresholds,
        writer: HistoryWriter | None = None,
        webhook: "Webhook | None" = None,
        bucket_seconds: int = SECONDS,
        told: Severity = "critical",
    ) -> None:
        self.replica = f"{socket.gethostname()[:64]}-{os.getpid()}-{secrets.token_hex(6)}"
        """This process, and no other."""
        self.thresholds = thresholds
        self._meters = meters
        self._writer = writer
        self._webhook = webhook
        self._bucket_seconds = bucket_seconds
        self._told = told
        self._sampling = Sampling(share, self._count)
        self._watches: dict[Key, Watch] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._clock = threading.Thread(target=self._keep_time, name="buckets", daemon=True)

    def start(self) -> None:
        for part in (self._sampling, self._writer, self._webhook):
            if part is not None:
                part.start()
        self._clock.start()

    def close(self) -> None:
        """Write what there is; takes a few seconds at most, whatever the database and the webhook do."""
        self._end.set()
        self._clock.join(CLOSE_SECONDS)
        self._sampling.close(CLOSE_SECONDS)
        for watch in self.watches:
            self._remember(watch, watch.buckets.close())
        for part in (self._writer, self._webhook):
            if part is not None:
                part.close(CLOSE_SECONDS)

    @property
    def watches(self) -> list[Watch]:
        with self._lock:
            return list(self._watches.values())

    def observer(self) -> Observer | None:
        """What is to be given the outputs of a request, if it is watched."""
        return self.observe if self._sampling.takes() else None

    def watch(self, model: Subject) -> Watch:
        """The watch of this model version."""
        key = key_of(model)
        with self._lock:
            if key not in self._watches:
                self._watches[key] = Watch(
                    model, self._bucket_seconds, int(self.thresholds.window_seconds), self.thresholds, self._told
                )
            return self._watches[key]

    def drain(self, seconds: float) -> bool:
        """Wait until all that was watched is counted; false when that took longer."""
        return self._sampling.drain(seconds)

    def observe(self, model: Subject, outputs: Tensors) -> None:
        """Count the outputs of a run that was watched, soon; or not at all when too many wait."""
        if not self._sampling.offer(Sample(model, outputs, time.time())):
            self._meters.dropped_sample(model.manifest.name)

    def _count(self, sample: Sample) -> None:
        watch = self.watch(sample.model)
        window = watch.reader.of(sample.outputs)
        self._remember(watch, watch.buckets.add(window, sample.time))
        self._meters.sampled(watch.key.model, window.images, window.unusual)

    def _remember(self, watch: Watch, bucket: Bucket | None) -> None:
        if bucket is not None and self._writer is not None:
            self._writer.offer(Row(watch.key, self.replica, *bucket))

    def _keep_time(self) -> None:
        while not self._end.wait(self._bucket_seconds - time.time() % self._bucket_seconds):
            for watch in self.watches:
                try:
                    self._tick(watch, time.time())
                except Exception:
                    logger.exception("the traffic of %r version %d could not be judged", *watch.key[:2])

    def _tick(self, watch: Watch, now: float) -> None:
        self._remember(watch, watch.buckets.close_before(now))
        findings = watch.judge_due(now)
        if findings and self._webhook is not None:
            self._webhook.tell(watch.key.model, watch.key.version, findings)
        if watch.idle_since < now - KEPT * self._bucket_seconds:
            with self._lock:
                self._watches.pop(watch.key, None)
