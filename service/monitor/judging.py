"""Findings over time: each window is diagnosed once, when it is over.

A rule that needs more images than came in one window looks at all that came since it last spoke, as far as they are
kept. No image is judged twice by one rule, and where there is little traffic, what needs much speaks seldom, not never.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from models.diagnosis.diagnose import Diagnostician, gravest_first
from models.diagnosis.finding import Diagnosis, Finding, Severity
from models.diagnosis.hysteresis import confirmed
from models.diagnosis.rules import RULES
from models.diagnosis.thresholds import Thresholds
from models.manifest import ModelManifest
from models.statistics.baseline import Baseline
from models.statistics.window import Window
from service.monitor.buckets import Span

# More than agree: a rule that speaks once an hour looks back over five hours of windows of five minutes.
KEPT = 72
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")

Since = Callable[[int], Span | None]
"""All traffic from a time to the end of the window that is judged."""


class Judgement(NamedTuple):
    """What was found in one window."""

    start: int
    end: int
    diagnosis: Diagnosis


class Judge:
    """Diagnoses the windows of one model version. Safe to share; the first diagnosis may take seconds."""

    def __init__(
        self,
        manifest: ModelManifest,
        baseline: Baseline | None,
        thresholds: Thresholds,
        told: Severity = "critical",
    ) -> None:
        """Findings of the severity `told`, and graver ones, are those that `judge` returns."""
        self.thresholds = thresholds
        self._told = SEVERITIES[SEVERITIES.index(told) :]
        self._diagnostician = Diagnostician(manifest, baseline, thresholds)
        self._recent: deque[Judgement] = deque(maxlen=KEPT)
        self._reported: set[tuple[str, str]] = set()
        self._spoke: dict[str, int] = {}
        """By rule, the end of the last window that it judged."""
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

    def judge(self, span: Span, since: Since | None = None) -> list[Finding]:
        """Diagnose the next window and remember it; returns the findings to be told that are confirmed only now.

        A finding that went away is new when it comes back.
        """
        diagnosis = self.diagnose(span.window)
        if since is not None:
            diagnosis = self._with_longer_windows(diagnosis, since)
        unjudged = {missing.rule for missing in diagnosis.unjudged}
        self._spoke |= {rule: span.end for rule in RULES if rule not in unjudged}
        self._recent.append(Judgement(span.start, span.end, diagnosis))
        told = {(finding.rule, finding.part): finding for finding in self.confirmed if finding.severity in self._told}
        new = [finding for key, finding in told.items() if key not in self._reported]
        self._reported = set(told)
        return new

    def _with_longer_windows(self, diagnosis: Diagnosis, since: Since) -> Diagnosis:
        """The same, but rules that lack images judged by what came since they last spoke."""
        rules: dict[int, list[str]] = {}
        for missing in diagnosis.unjudged:
            if missing.images < missing.needed:
                rules.setdefault(self._spoke.get(missing.rule, 0), []).append(missing.rule)
        findings = list(diagnosis.findings)
        unjudged = {missing.rule: missing for missing in diagnosis.unjudged}
        for start, names in rules.items():
            if (span := since(start)) is None:
                continue
            with self._one_at_a_time:
                longer = self._diagnostician.diagnose(span.window, names)
            findings += longer.findings
            unjudged = {rule: missing for rule, missing in unjudged.items() if rule not in names}
            unjudged |= {missing.rule: missing for missing in longer.unjudged}
        return Diagnosis(images=diagnosis.images, findings=gravest_first(findings), unjudged=list(unjudged.values()))
