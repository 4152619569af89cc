"""The Prometheus metrics, one registry for each application.

Label values come from the route table and from the models that are served, never from a client: an unknown path or
model makes no new series.
"""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.types import Scope

from service.runtime.model import LoadedModel

CONTENT_TYPE = CONTENT_TYPE_LATEST
# A ResNet-20 answers in 1 ms, a large photo decodes in 200 ms.
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# The key in a request's scope under which a route leaves the model that it served.
MODEL = "reslens.model"


class Meters:
    """Every metric of the service; the methods are what the rest of it may say."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        labels = ["route", "method", "model"]
        self._requests = self._counter("requests", "Requests answered.", *labels, "status")
        self._request_seconds = self._histogram(
            "request_seconds", "From a request's headers to the end of its answer.", *labels
        )
        # Looking series up by their labels takes longer than counting.
        self._answers: dict[tuple[str, str, str, int], tuple[Counter, Histogram]] = {}
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
        self._failed_images = self._counter("failed_images", "Images that got no verdict.", "model")
        self._queue_depth = self._gauge(
            "queue_depth",
            "Images that wait for a run, and requests that wait to be decoded; counted ten times a second.",
        )
        self._in_flight = self._gauge("requests_in_flight", "Requests that have come and are not answered yet.")
        self._loaded = self._gauge(
            "model_loaded", "1 for the version that a model's name stands for.", "model", "version", "provider"
        )
        self._sampled = self._counter("sampled_images", "Images whose layers were watched.", "model")
        self._dropped = self._counter("dropped_samples", "Runs that were watched and not counted.", "model")
        self._unusual = self._counter(
            "unusual_images", "Watched images unlike those that the network knows: p < 0.01.", "model"
        )
        self._failed_models = self._gauge("models_failed", "Versions that cannot be served.")

    def decoded(self, model: str, seconds: float) -> None:
        self._decode_seconds.labels(model).observe(seconds)

    def inferred(self, model: str, images: int, statistics: bool, seconds: float) -> None:
        self._inference_seconds.labels(model, str(statistics).lower()).observe(seconds)
        self._images.labels(model).observe(images)

    def waited(self, model: str, seconds: float) -> None:
        self._queue_seconds.labels(model).observe(seconds)

    def queued(self, waiting: int) -> None:
        self._queue_depth.set(waiting)

    def ran(self, model: str, images: int) -> None:
        self._batch_images.labels(model).observe(images)

    def failed(self, model: str, images: int) -> None:
        self._failed_images.labels(model).inc(images)

    def sampled(self, model: str, images: int, unusual: int) -> None:
        self._sampled.labels(model).inc(images)
        self._unusual.labels(model).inc(unusual)

    def dropped_sample(self, model: str) -> None:
        self._dropped.labels(model).inc()

    def add(self, collector: Collector) -> None:
        """Ask for further series at every scrape."""
        self._registry.register(collector)

    def came(self) -> None:
        self._in_flight.inc()

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        self._in_flight.dec()
        method = scope["method"] if scope["method"] in METHODS else "other"
        labels = (_route(scope), method, scope.get(MODEL, ""), status)
        series = self._answers.get(labels)
        if series is None:
            requests = self._requests.labels(*labels[:3], str(status))
            series = self._answers[labels] = (requests, self._request_seconds.labels(*labels[:3]))
        series[0].inc()
        series[1].observe(seconds)

    def exposition(self, served: Iterable[LoadedModel], failed: int) -> bytes:
        """The text that Prometheus scrapes."""
        self._loaded.clear()
        for model in served:
            self._loaded.labels(model.manifest.name, str(model.manifest.version), model.provider).set(1)
        self._failed_models.set(failed)
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"reslens_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"reslens_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float] = SECONDS) -> Histogram:
        return Histogram(f"reslens_{name}", text, labels, registry=self._registry, buckets=buckets)


def _route(scope: Scope) -> str:
    """The template of the route that matched, `/v2/models/{name}/infer`, not the path that was asked for."""
    return getattr(scope.get("route"), "path", "unmatched")
