"""What traffic is compared with."""

from service.errors import NotFoundError
from service.monitor.answers import BaselineAnswer
from service.monitor.subject import Subject
from service.monitor.summary import summary


def usual(model: Subject) -> BaselineAnswer:
    """What traffic is compared with; raises `NotFoundError` with the reason if there is nothing."""
    baseline = model.reference.baseline
    if baseline is None:
        raise NotFoundError(model.reference.reason)
    return BaselineAnswer(
        model=model.manifest.name,
        version=model.manifest.version,
        calibrated_with=baseline.outliers.calibrated_with,
        **dict(summary(baseline.window, model.manifest)),
    )
