"""Traffic in which too many single images are unlike those that the network knows."""

from collections.abc import Iterator

import numpy as np

from models.diagnosis.case import Case, share
from models.diagnosis.finding import MODEL, Finding
from models.diagnosis.intervals import wilson
from models.statistics.window import UNUSUAL

SURE = 4.0
"""Standard errors."""
MOST = 0.5


def out_of_distribution(case: Case) -> Iterator[Finding]:
    """The share of images with a combined p < 0.01, where 0.01 is expected.

    With n_cal calibration images the share that is really below 0.01 is itself uncertain by √(0.01·0.99/n_cal).
    """
    judged, unusual = case.window.judged, case.window.unusual
    calibrated = case.baseline.outliers.calibrated_with
    expected = UNUSUAL + SURE * np.sqrt(UNUSUAL * (1 - UNUSUAL) / calibrated)
    value = unusual / judged
    if value < case.thresholds.outlier_share or wilson(unusual, judged, SURE)[0] <= expected:
        return
    yield Finding(
        rule="out_of_distribution",
        part=MODEL,
        severity="critical" if value > MOST else "warning",
        cause=f"{share(value)} of the images are unlike those that the model knows ({share(UNUSUAL)} is usual)",
        value=value,
        baseline=UNUSUAL,
        interval=wilson(unusual, judged),
        images=case.images,
        evidence={"judged": judged, "unusual": unusual, "calibrated_with": calibrated},
    )
