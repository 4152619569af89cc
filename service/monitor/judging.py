"""Findings over time: each window is diagnosed once, when it is over."""

import threading
from collections import deque
from typing import NamedTuple

from models.diagnosis.diagnose import Diagnostician
from models.diagnosis.finding import Diagnosis, Finding
from models.diagnosis.hysteresis import confirmed
from models.diagnosis.thresholds import Thresholds
from models.manifest import ModelManifest
from models.statistics.baseline import Baseline
from models.statistics.window import Window
from service.monitor.buckets import Span

# More than agree: a rule that could not be judged in some windows looks further back.
KEPT = 12


class Judgement(NamedTuple):
    """What was found in one window."""

    start: int
    end: int
    diagnosis: Diagnosis


class Judge:
    """Diagnoses the windows of one model version. Safe to share; the first diagnosis may take seconds."""

    def __init__(self, manifest: ModelManifest, baseline: Baseline | None, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self._diagnostician = Diagnostician(manifest, baseline, thresholds)
        self._recent: deque[Judgement] = deque(maxlen=KEPT)
        self._reported: set[tuple[str, str]] = set()
        self._one_at_a_time = threading.Lock()

    @property
    def recent(self) -> list[Judgement]:
        """The last windows, oldest first."""
        return list(self._recent)

    @property
    def confirmed(self) -> list[Finding]:
        """What most of the last windows agree on."""
        diagnoses = [judgement.diagnosis for judgement in self.recent]
        return confirmed(diagnoses, self.thresholds.confirmations, self.thresholds.confirmation_windows)

    def diagnose(self, window: Window) -> Diagnosis:
        """Of any window; nothing is remembered."""
        with self._one_at_a_time:
            return self._diagnostician.diagnose(window)

    def judge(self, span: Span) -> list[Finding]:
        """Diagnose the next window and remember it; returns the critical findings that are confirmed only now.

        A finding that went away is new when it comes back.
        """
        self._recent.append(Judgement(span.start, span.end, self.diagnose(span.window)))
        critical = {
            (finding.rule, finding.part): finding for finding in self.confirmed if finding.severity == "critical"
        }
        new = [finding for key, finding in critical.items() if key not in self._reported]
        self._reported = set(critical)
        return new
