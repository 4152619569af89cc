"""Images in, ranked classes and statistics out: the synchronous work of one classify request."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from models.preprocessing import pixels_to_tensor
from models.statistics.features import Features
from models.statistics.layers import ImageStatistics
from models.statistics.outliers import Outlierness
from models.statistics.scalars import prediction_scalars
from service.errors import ModelFaultError, ServiceError
from service.images import PixelBudget, decode
from service.runtime.model import LoadedModel, Tensors
from service.runtime.observation import Observer, run


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
    """What the model says about one image; all but the classes None unless statistics are asked for."""

    classes: list[Ranked]
    statistics: ImageStatistics | None = None
    prediction: dict[str, float] | None = None
    """entropy, margin, energy"""
    outlier: Outlier | None = None
    """None without a baseline, too."""


class Outcome(NamedTuple):
    """One result for each image, in order: an image that cannot be used fails alone."""

    results: list[Verdict | ServiceError]
    decode_seconds: float
    inference_seconds: float


@dataclass(frozen=True)
class Classifier:
    """How images are to be classified."""

    model: LoadedModel
    top_k: int
    """At most this many classes are ranked; a model with fewer ranks them all."""
    statistics: bool
    channels: bool
    """Whether the statistics say what every channel did."""
    max_pixels: int
    """Of all images of a request together."""
    max_batch: int
    observer: Observer | None = None
    """Is given the outputs of every batch, statistics included."""

    def classify(self, images: Sequence[bytes]) -> Outcome:
        started = time.perf_counter()
        budget = PixelBudget(self.max_pixels)
        decoded = [self._decode(image, budget) for image in images]
        decode_seconds = time.perf_counter() - started

        started = time.perf_counter()
        pixels = [image for image in decoded if not isinstance(image, ServiceError)]
        verdicts = iter(
            [
                verdict
                for start in range(0, len(pixels), self.max_batch)
                for verdict in self._infer(pixels[start : start + self.max_batch])
            ]
        )
        results = [image if isinstance(image, ServiceError) else next(verdicts) for image in decoded]
        return Outcome(results, decode_seconds, time.perf_counter() - started)

    def _decode(self, image: bytes, budget: PixelBudget) -> NDArray[np.uint8] | ServiceError:
        try:
            return decode(image, self.model.manifest.preprocessing, budget)
        except ServiceError as error:
            return error

    def _infer(self, pixels: Sequence[NDArray[np.uint8]]) -> list[Verdict | ServiceError]:
        model = self.model
        tensor_NCHW = pixels_to_tensor(np.stack(pixels), model.manifest.preprocessing)
        outputs = model.output_names + (model.statistics_names if self.statistics else ())
        values = run(model, tensor_NCHW, outputs, self.observer)
        judged = self._judge(values) if self.statistics else None
        return [self._verdict(values, row, judged) for row in range(len(pixels))]

    def _judge(self, values: Tensors) -> Outlierness | None:
        baseline = self.model.reference.baseline
        return None if baseline is None else baseline.outliers.judge(Features.of(values, self.model.manifest))

    def _verdict(
        self, values: Mapping[str, NDArray[np.float32]], row: int, judged: Outlierness | None
    ) -> Verdict | ServiceError:
        manifest = self.model.manifest
        logits = values[manifest.outputs[0].name][row]
        if not np.isfinite(logits).all():
            return ModelFaultError(f"model {manifest.name!r} put out NaN or infinity for this image")
        classes = rank(logits, manifest.class_names, self.top_k)
        if not self.statistics:
            return Verdict(classes)
        return Verdict(
            classes,
            self.model.reader.image(values, row, self.channels),
            {name: float(column[0]) for name, column in prediction_scalars(logits[None]).items()},
            None if judged is None else self._outlier(judged, row),
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
