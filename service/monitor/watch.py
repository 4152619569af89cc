"""What is known of the traffic of one model version."""

import time

from models.diagnosis.finding import Finding, Severity
from models.diagnosis.thresholds import Thresholds
from models.statistics.window import WindowReader
from service.history.tables import Key
from service.monitor.buckets import Buckets
from service.monitor.judging import Judge
from service.monitor.subject import Subject


class Watch:
    """The minutes and the findings of one model version."""

    def __init__(
        self,
        model: Subject,
        bucket_seconds: int,
        diagnosis_seconds: int,
        thresholds: Thresholds,
        told: Severity = "critical",
    ) -> None:
        manifest = model.manifest
        self.key = key_of(model)
        baseline = model.reference.baseline
        self.reader = WindowReader(manifest, baseline.outliers if baseline else None)
        self.buckets = Buckets(self.reader, bucket_seconds)
        self.judge = Judge(manifest, baseline, thresholds, told)
        self._diagnosis_seconds = diagnosis_seconds
        self._judged_until: int | None = None
        self._made = time.time()

    @property
    def idle_since(self) -> float:
        """When the newest bucket ended, in seconds since 1970."""
        return max(self.buckets.newest, self._made)

    def judge_due(self, now: float) -> list[Finding]:
        """Judge the last window that is over, unless it was; returns the findings to be told that are new."""
        end = int(now) // self._diagnosis_seconds * self._diagnosis_seconds
        if end == self._judged_until:
            return []
        self._judged_until = end
        span = self.buckets.between(end - self._diagnosis_seconds, end)
        return self.judge.judge(span, lambda start: self.buckets.between(start, end)) if span else []


def key_of(model: Subject) -> Key:
    """Which graph the model runs."""
    manifest = model.manifest
    return Key(manifest.name, manifest.version, manifest.digests[manifest.graph])
