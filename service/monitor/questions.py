"""Answers questions about traffic: what the layers did, and what is wrong with it."""

from datetime import UTC, datetime

from models.diagnosis.finding import Diagnosis
from service.monitor.answers import DiagnosisAnswer, JudgedWindow, StatisticsAnswer
from service.monitor.judging import Judgement
from service.monitor.subject import Subject
from service.monitor.summary import summary
from service.monitor.traffic import Traffic
from service.monitor.watch import Watch
from service.monitor.windows import Windows


class Questions:
    """Asks the live windows and the history. May take long, and wait for the database."""

    def __init__(self, traffic: Traffic, windows: Windows) -> None:
        self._traffic = traffic
        self._windows = windows

    def statistics(self, model: Subject, name: str) -> StatisticsAnswer:
        """Of the window of that name; raises what `Windows.seen` does."""
        watch = self._traffic.watch(model)
        seen = self._windows.seen(watch, name)
        reference = model.reference
        usual = reference.baseline
        window = seen.span.window if seen.span else watch.reader.empty()
        return StatisticsAnswer(
            model=model.manifest.name,
            version=model.manifest.version,
            window=name,
            source=seen.source,
            start=_time(seen.span.start) if seen.span else None,
            end=_time(seen.span.end) if seen.span else None,
            replicas=seen.replicas,
            unreadable=seen.unreadable,
            baseline_images=usual.images if usual else None,
            baseline_reason=reference.reason,
            **dict(summary(window, model.manifest, usual.window if usual else None)),
        )

    def diagnosis(self, model: Subject, name: str | None) -> DiagnosisAnswer:
        """The findings that hold, and those of one window: that of the name, else the last that is over."""
        watch = self._traffic.watch(model)
        judge, reference = watch.judge, model.reference
        return DiagnosisAnswer(
            model=model.manifest.name,
            version=model.manifest.version,
            confirmed=judge.confirmed,
            current=self._current(watch, name),
            window=name,
            judged=[_judged(judgement) for judgement in judge.recent],
            thresholds=judge.thresholds,
            baseline_images=reference.baseline.images if reference.baseline else None,
            baseline_reason=reference.reason,
        )

    def _current(self, watch: Watch, name: str | None) -> Diagnosis:
        if name is None and (recent := watch.judge.recent):
            return recent[-1].diagnosis
        span = None if name is None else self._windows.seen(watch, name).span
        # Nothing seen is too little for every rule, and each says so.
        return watch.judge.diagnose(span.window if span else watch.reader.empty())


def _judged(judgement: Judgement) -> JudgedWindow:
    return JudgedWindow(
        start=_time(judgement.start),
        end=_time(judgement.end),
        images=judgement.diagnosis.images,
        findings=len(judgement.diagnosis.findings),
    )


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
