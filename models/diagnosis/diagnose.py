"""From a window of traffic to a diagnosis."""

from collections.abc import Collection, Iterable
from functools import cached_property

from models.diagnosis.case import Case, layers_of
from models.diagnosis.family import Family
from models.diagnosis.finding import Diagnosis, Finding, Unjudged
from models.diagnosis.rules import RULES
from models.diagnosis.thresholds import Thresholds
from models.manifest import ModelManifest
from models.statistics.baseline import Baseline
from models.statistics.window import Window

DEFAULTS = Thresholds()
BASELINE_IMAGES = 200
"""Held-out images that a baseline must have before traffic is compared with it."""
_GRAVITY = {"critical": 0, "warning": 1, "info": 2}


def gravest_first(findings: Iterable[Finding]) -> list[Finding]:
    """In the order of severity, else as they come."""
    return sorted(findings, key=lambda finding: _GRAVITY[finding.severity])


class Diagnostician:
    """Applies every rule to windows of one model version; made once, it keeps what it learned from the baseline.

    Raises `ValueError` for thresholds that name a rule which does not exist.
    """

    def __init__(self, manifest: ModelManifest, baseline: Baseline | None, thresholds: Thresholds = DEFAULTS) -> None:
        if unknown := sorted(set(thresholds.minimum_images) - set(RULES)):
            raise ValueError(f"minimum_images names {', '.join(unknown)}; the rules are {', '.join(RULES)}")
        self._manifest = manifest
        self._baseline = baseline
        self._thresholds = thresholds
        # A poor baseline is as good as none, and says so.
        self._usable = baseline if baseline is not None and baseline.images >= BASELINE_IMAGES else None
        self._before = {} if self._usable is None else layers_of(self._usable.window, manifest)

    def diagnose(self, window: Window, rules: Collection[str] = RULES) -> Diagnosis:
        """Every finding of these rules in this window, the gravest first."""
        case = Case(
            manifest=self._manifest,
            window=window,
            now=layers_of(window, self._manifest),
            known=self._usable,
            before=self._before,
            thresholds=self._thresholds,
            family=self._family,
        )
        findings: list[Finding] = []
        unjudged = []
        for name, rule in RULES.items():
            if name not in rules:
                continue
            if missing := self._missing(name, window):
                unjudged.append(missing)
            else:
                findings += rule.judge(case)
        return Diagnosis(images=window.images, findings=gravest_first(findings), unjudged=unjudged)

    def needed(self, rule: str) -> int:
        """Images without which the rule is not applied."""
        return self._thresholds.minimum_images.get(rule, RULES[rule].images)

    @cached_property
    def _family(self) -> Family | None:
        return None if self._usable is None else Family(self._usable, self._thresholds)

    def _missing(self, name: str, window: Window) -> Unjudged | None:
        """Why the rule cannot be applied; None if it can be."""
        needed = self.needed(name)
        images = window.judged if name == "out_of_distribution" else window.images
        if RULES[name].needs_baseline and (reason := self._no_baseline(name)):
            return Unjudged(rule=name, images=images, needed=needed, reason=reason)
        if images < needed:
            return Unjudged(
                rule=name, images=images, needed=needed, reason=f"not enough data: {images} of {needed} images"
            )
        return None

    def _no_baseline(self, name: str) -> str:
        if self._baseline is None:
            return "no baseline: publish the model with held-out images"
        if self._usable is None:
            return f"no baseline: it has {self._baseline.images} images, {BASELINE_IMAGES} are needed"
        calibrated, least = self._usable.outliers.calibrated_with, self._thresholds.calibration_images
        if name == "out_of_distribution" and calibrated < least:
            return f"no baseline: p-values are calibrated with {calibrated} images, {least} are needed"
        return ""
