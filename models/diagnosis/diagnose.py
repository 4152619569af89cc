"""From a window of traffic to a diagnosis."""

from models.diagnosis.finding import Diagnosis
from models.diagnosis.thresholds import Thresholds
from models.manifest import ModelManifest
from models.statistics.baseline import Baseline
from models.statistics.window import Window


class Diagnostician:
    """Applies every rule to windows of one model version; made once, it keeps what it learned from the baseline."""

    def __init__(
        self, manifest: ModelManifest, baseline: Baseline | None, thresholds: Thresholds = Thresholds()
    ) -> None:
        self._manifest = manifest
        self._baseline = baseline
        self._thresholds = thresholds

    def diagnose(self, window: Window) -> Diagnosis:
        """Every finding of this window, the gravest first."""
        return Diagnosis(images=window.images, findings=[], unjudged=[])
