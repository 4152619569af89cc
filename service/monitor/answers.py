"""What is answered about the traffic of a model."""

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict

from models.diagnosis.finding import Diagnosis, Finding
from models.diagnosis.thresholds import Thresholds
from service.monitor.summary import WindowSummary
from service.protocol.described import Described


class Answer(Described):
    model_config = ConfigDict(protected_namespaces=())


class Of(Answer):
    """Which model an answer is about."""

    model: str
    version: int


class BaselineAnswer(Of, WindowSummary):
    """What the layers did on held-out images."""

    calibrated_with: int
    """Images behind the p-values of single images."""


class StatisticsAnswer(Of, WindowSummary):
    """What the layers did to watched traffic, the baseline's numbers beside in `baseline`, where there is one."""

    window: str
    source: Literal["memory", "history"]
    """`memory`: what this process saw; `history`: what all did."""
    start: datetime | None
    """Of the first bucket in the window; null when nothing was seen."""
    end: datetime | None
    replicas: list[str]
    """The processes that saw it; `merged` for all of those whose minutes have become hours."""
    unreadable: int
    """Rows of the history that are left out because they cannot be read."""
    baseline_images: int | None
    baseline_reason: str
    """Why there is no baseline beside; empty when there is."""


class JudgedWindow(Answer):
    start: datetime
    end: datetime
    images: int
    findings: int


class DiagnosisAnswer(Of):
    """What is wrong with the traffic of a model, and how sure that is."""

    confirmed: list[Finding]
    """What `confirmations` of the last `confirmation_windows` windows agree on: what the promise of few false alarms is
    about."""
    current: Diagnosis
    """Of one window alone: the one asked for, else the last that is over; of 0 images when nothing was seen."""
    window: str | None
    """The window asked for."""
    judged: list[JudgedWindow]
    """The last windows, oldest first, each judged once, when it was over."""
    thresholds: Thresholds
    """Among them the expected time between false alarms."""
    baseline_images: int | None
    baseline_reason: str
    """Why there is no baseline to compare with; empty when there is."""
