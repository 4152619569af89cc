"""Outputs of a model in, ranked classes and statistics out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from models.manifest import ATTENTION
from models.statistics.features import Features
from models.statistics.layers import ImageStatistics
from models.statistics.outliers import Outlierness
from models.statistics.scalars import prediction_scalars
from service.errors import ModelFaultError, ServiceError
from service.runtime.model import LoadedModel, Tensors


class Ranked(TypedDict):
    label: str
    index: int
    probability: float


class Outlier(TypedDict):
    """p-values of one image, small for the unusual."""

    p: float
    layers: dict[str, float]
    head: dict[str, float]
    calibrated_with: int


class Verdict(NamedTuple):
    """What the model says about one image; all but the classes None unless it is asked for."""

    classes: list[Ranked]
    statistics: ImageStatistics | None = None
    prediction: dict[str, float] | None = None
    """entropy, margin, energy"""
    outlier: Outlier | None = None
    """None without a baseline, too."""
    attention: NDArray[np.float32] | None = None
    """H×W"""


@dataclass(frozen=True)
class Classifier:
    """What is to be said about images."""

    model: LoadedModel
    top_k: int
    """At most this many classes are ranked; a model with fewer ranks them all."""
    statistics: bool
    channels: bool
    """Whether the statistics say what every channel did."""
    attention: bool = False
    """Whether it is to be said where the model looked; only of a model that has attention."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a run of the model is to give."""
        attention = (ATTENTION,) if self.attention else ()
        return (self.model.logits_name, *attention, *(self.model.statistics_names if self.statistics else ()))

    def verdicts(self, images: Sequence[Tensors]) -> list[Verdict | ServiceError]:
        """Judge images by the outputs of their runs, one row each; one that the model failed at fails alone."""
        if not images:
            return []
        values = {name: np.concatenate([image[name] for image in images]) for name in self.outputs}
        judged = self._judge(values) if self.statistics else None
        return [self._verdict(values, row, judged) for row in range(len(images))]

    def _judge(self, values: Tensors) -> Outlierness | None:
        baseline = self.model.reference.baseline
        return None if baseline is None else baseline.outliers.judge(Features.of(values, self.model.manifest))

    def _verdict(
        self, values: Mapping[str, NDArray[np.float32]], row: int, judged: Outlierness | None
    ) -> Verdict | ServiceError:
        manifest = self.model.manifest
        logits = values[manifest.logits.name][row]
        if not np.isfinite(logits).all():
            return ModelFaultError(f"model {manifest.name!r} put out NaN or infinity for this image")
        classes = rank(logits, manifest.class_names, self.top_k)
        attention = values[ATTENTION][row] if self.attention else None
        if not self.statistics:
            return Verdict(classes, attention=attention)
        return Verdict(
            classes,
            self.model.reader.image(values, row, self.channels),
            {name: float(column[0]) for name, column in prediction_scalars(logits[None]).items()},
            None if judged is None else self._outlier(judged, row),
            attention,
        )

    def _outlier(self, judged: Outlierness, row: int) -> Outlier:
        baseline = self.model.reference.baseline
        assert baseline is not None
        names = (site.name for site in self.model.manifest.sites)
        return Outlier(
            p=float(judged.combined[row]),
            layers=dict(zip(names, judged.layers[row].tolist(), strict=True)),
            head={name: float(values[row]) for name, values in judged.head.items()},
            calibrated_with=baseline.outliers.calibrated_with,
        )


def rank(logits: NDArray[np.float32], labels: Sequence[str], top_k: int) -> list[Ranked]:
    """The `top_k` most probable classes by softmax(logits), most probable first; of equals the lower index first."""
    shifted = logits.astype(np.float64) - logits.max()
    exponentials = np.exp(shifted)
    probabilities = exponentials / exponentials.sum()
    best = np.argsort(-shifted, kind="stable")[:top_k].tolist()
    return [Ranked(label=labels[index], index=index, probability=float(probabilities[index])) for index in best]
