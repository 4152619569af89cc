"""Prometheus series of the watching itself, computed when they are scraped: as many as models × rules at most."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.history.writer import HistoryWriter
from service.monitor.traffic import Traffic

if TYPE_CHECKING:
    from service.monitor.webhook import Webhook


class TrafficCollector(Collector):
    """Findings that hold, and what became of buckets and messages."""

    def __init__(self, traffic: Traffic, writer: HistoryWriter | None, webhook: "Webhook | None") -> None:
        self._traffic = traffic
        self._writer = writer
        self._webhook = webhook

    def collect(self) -> Iterator[Metric]:
        """As Prometheus' client asks."""
        yield self._findings()
        if self._writer is not None:
            counts = self._writer.counts
            yield _counter("history_buckets_written", "Buckets written to the history.", counts.written)
            yield _gauge("history_buckets_pending", "Buckets that wait to be written.", counts.pending)
            yield _counter("history_buckets_given_up", "Buckets that were never written.", counts.given_up)
            yield _counter("history_failures", "Failed attempts to write to the history.", counts.failures)
        if self._webhook is not None:
            deliveries = self._webhook.deliveries
            yield _counter("webhook_messages_delivered", "Messages that the webhook took.", deliveries.delivered)
            yield _gauge("webhook_messages_pending", "Messages that wait to be taken.", deliveries.pending)
            yield _counter("webhook_messages_given_up", "Messages that the webhook never took.", deliveries.given_up)

    def _findings(self) -> GaugeMetricFamily:
        labels = ("model", "severity", "rule")
        family = GaugeMetricFamily("reslens_findings", "Findings that most of the last windows agree on.", None, labels)
        found = Counter(
            (watch.key.model, finding.severity, finding.rule)
            for watch in self._traffic.watches
            for finding in watch.judge.confirmed
        )
        for values, count in found.items():
            family.add_metric(values, count)
        return family


def _counter(name: str, text: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(f"reslens_{name}", text, value)


def _gauge(name: str, text: str, value: int) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"reslens_{name}", text, value)
