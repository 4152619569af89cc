"""The Prometheus metrics, one registry for each application.

Label values come from the route table and from the models that are served, never from a client: an unknown path or
model makes no new series.
"""

import contextlib
from bisect import bisect_left
from collections import Counter as Frequencies
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.types import Scope

from service.monitor.processes import shared_counts

if TYPE_CHECKING:
    # Whoever only counts does without the runtime.
    from service.monitor.tally import Answered
    from service.runtime.model import LoadedModel

CONTENT_TYPE = CONTENT_TYPE_LATEST
# A ResNet-20 answers in 1 ms, a large photo decodes in 200 ms.
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# The key in a request's scope under which a route leaves the model that it served.
MODEL = "reslens.model"
# Values that wait to be counted, at most.
MOST_WAITING = 10_000


class Histogram(prometheus_client.Histogram):
    """A histogram that many values can be told at once."""

    def observe_all(self, values: Sequence[float]) -> None:
        """As `observe` of each, with one write for each bucket that gets any, where that has two for each value."""
        self._sum.inc(sum(values))
        for bucket, count in Frequencies(bisect_left(self._upper_bounds, value) for value in values).items():
            self._buckets[bucket].inc(count)


Series = TypeVar("Series", Counter, Histogram)
Values = tuple[Callable[..., Counter | Histogram], tuple[str | int, ...], float]


class Meters:
    """Every metric of the service; the methods are what the rest of it may say.

    What is said of each request is written down, and counted ten times a second: counting one request at a time, in
    files that other processes read, would take a good part of the time of a small one.
    Where several processes share a directory, as `monitor.processes` says, each may be asked for the counts of all.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self._waiting: deque[Values] = deque()
        self._shared = shared_counts()
        self._counts = CollectorRegistry()
        self._process = CollectorRegistry()
        PlatformCollector(registry=self._process)
        if self._shared is None:
            ProcessCollector(registry=self._process)
        labels = ["route", "method", "model"]
        self._requests = self._counter("requests", "Requests answered.", *labels, "status")
        self._request_seconds = self._histogram(
            "request_seconds", "From a request's headers to the end of its answer.", *labels
        )
        self._decode_seconds = self._histogram(
            "decode_seconds", "Decoding and pre-processing of one request's images.", "model"
        )
        self._inference_seconds = self._histogram(
            "inference_seconds", "Inference of one request.", "model", "statistics"
        )
        self._images = self._histogram("inference_images", "Images in one request.", "model", buckets=IMAGES)
        self._queue_seconds = self._histogram(
            "queue_seconds", "What one request waited for its first run, once its images were decoded.", "model"
        )
        self._batch_images = self._histogram(
            "batch_images", "Images in one run, of one request or several.", "model", buckets=IMAGES
        )
        self._answered = self._counter("answered", "Inferences that a version answered.", "model", "version")
        self._failed_images = self._counter("failed_images", "Images that got no verdict.", "model")
        self._queue_depth = self._gauge(
            "queue_depth",
            "Images that wait for a run, and requests that wait to be decoded; counted ten times a second.",
        )
        self._in_flight = self._gauge(
            "requests_in_flight", "Requests that have come and are not answered yet; counted ten times a second."
        )
        self._sampled = self._counter("sampled_images", "Images whose layers were watched.", "model")
        self._dropped = self._counter("dropped_samples", "Runs that were watched and not counted.", "model")
        self._unusual = self._counter(
            "unusual_images", "Watched images unlike those that the network knows: p < 0.01.", "model"
        )

    def decoded(self, model: str, seconds: float) -> None:
        self._later(self._decode_seconds, (model,), seconds)

    def counted(self, model: str, version: int, request: "Answered") -> None:
        """One request that a run answered."""
        self._later(self._answered, (model, version), 1)
        statistics = "true" if request.statistics else "false"
        self._later(self._inference_seconds, (model, statistics), request.infer / 1e9)
        self._later(self._images, (model,), request.images)
        self._later(self._queue_seconds, (model,), request.queue / 1e9)
        for batch in request.batches:
            self._later(self._batch_images, (model,), batch)

    def tick(self, waiting: int) -> None:
        """To be called ten times a second, with what waits at the moment."""
        self.settle()
        self._queue_depth.set(waiting)
        self._in_flight.set(self.in_flight)

    def failed(self, model: str, images: int) -> None:
        self._later(self._failed_images, (model,), images)

    def sampled(self, model: str, images: int, unusual: int) -> None:
        self._sampled(model).inc(images)
        self._unusual(model).inc(unusual)

    def dropped_sample(self, model: str) -> None:
        self._dropped(model).inc()

    def came(self) -> None:
        self.in_flight += 1

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        self.in_flight -= 1
        method = scope["method"] if scope["method"] in METHODS else "other"
        route, model = _route(scope), scope.get(MODEL, "")
        self._later(self._requests, (route, method, model, status), 1)
        self._later(self._request_seconds, (route, method, model), seconds)

    def settle(self) -> None:
        """Count what was written down until now."""
        values: defaultdict[tuple[Callable[..., Counter | Histogram], tuple[str | int, ...]], list[float]]
        values = defaultdict(list)
        with contextlib.suppress(IndexError):  # others may take from it, too
            while self._waiting:
                series, labels, value = self._waiting.popleft()
                values[series, labels].append(value)
        for (series, labels), amounts in values.items():
            one = series(*labels)
            if isinstance(one, Histogram):
                one.observe_all(amounts)
            else:
                one.inc(sum(amounts))

    def exposition(self, served: Iterable["LoadedModel"], failed: int) -> bytes:
        """The text that Prometheus scrapes."""
        self.settle()
        self._in_flight.set(self.in_flight)
        return b"".join(map(generate_latest, (self._process, Shelved(served, failed), self._shared or self._counts)))

    def _later(self, series: Callable[..., Counter | Histogram], labels: tuple[str | int, ...], value: float) -> None:
        self._waiting.append((series, labels, value))
        if len(self._waiting) > MOST_WAITING:
            self.settle()

    def _counter(self, name: str, text: str, *labels: str) -> Callable[..., Counter]:
        return _children(Counter(f"reslens_{name}", text, labels, registry=self._counts))

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"reslens_{name}", text, registry=self._counts, multiprocess_mode="livesum")

    def _histogram(
        self, name: str, text: str, *labels: str, buckets: Sequence[float] = SECONDS
    ) -> Callable[..., Histogram]:
        return _children(Histogram(f"reslens_{name}", text, labels, registry=self._counts, buckets=buckets))


class Shelved(Collector):
    """What is served, as whoever is asked knows it: every process serves the same."""

    def __init__(self, served: Iterable["LoadedModel"], failed: int) -> None:
        self._served = served
        self._failed = failed

    def collect(self) -> Iterable[Metric]:
        """As Prometheus' client asks."""
        loaded = GaugeMetricFamily(
            "reslens_model_loaded",
            "1 for the version that a model's name stands for.",
            labels=("model", "version", "provider"),
        )
        for model in self._served:
            loaded.add_metric((model.manifest.name, str(model.manifest.version), model.provider), 1)
        yield loaded
        yield GaugeMetricFamily("reslens_models_failed", "Versions that cannot be served.", self._failed)


def _children(metric: Series) -> Callable[..., Series]:
    """The series of one metric by the values of its labels. Looking them up there takes longer than counting."""
    return cache(metric.labels)


def _route(scope: Scope) -> str:
    """The template of the route that matched, `/v2/models/{name}/infer`, not the path that was asked for."""
    return getattr(scope.get("route"), "path", "unmatched")
