"""A monitor within this process."""

from anyio import CapacityLimiter, to_thread
from prometheus_client import CollectorRegistry, generate_latest

from models.diagnosis.thresholds import Thresholds
from service.errors import StartupError
from service.history.database import open_engine
from service.history.retention import Retention
from service.history.store import HistoryStore
from service.history.writer import HistoryWriter
from service.monitor.answers import DiagnosisAnswer, StatisticsAnswer
from service.monitor.collector import TrafficCollector
from service.monitor.meters import Meters
from service.monitor.questions import Questions
from service.monitor.subject import Subject
from service.monitor.traffic import Traffic
from service.monitor.window_names import HISTORY
from service.monitor.windows import Windows
from service.runtime.observation import Observer
from service.settings import Settings

# Threads for questions about traffic, and as many for those that the history answers.
READERS = 2


class LocalMonitor:
    """The monitor of this process: its threads watch, and others answer."""

    def __init__(self, traffic: Traffic, windows: Windows, collector: TrafficCollector) -> None:
        self.traffic = traffic
        self._questions = Questions(traffic, windows)
        # However long questions about memory take, no inference waits for them; nor they for the database.
        self._readers = CapacityLimiter(READERS)
        self._historians = CapacityLimiter(READERS)
        self._registry = CollectorRegistry()
        self._registry.register(collector)

    async def start(self) -> None:
        self.traffic.start()

    async def close(self) -> None:
        await to_thread.run_sync(self.traffic.close)

    def observer(self) -> Observer | None:
        return self.traffic.observer()

    async def statistics(self, model: Subject, window: str) -> bytes:
        def ask() -> bytes:
            return _json(self._questions.statistics(model, window))

        return await to_thread.run_sync(ask, limiter=self._limiter(window))

    async def diagnosis(self, model: Subject, window: str | None) -> bytes:
        def ask() -> bytes:
            return _json(self._questions.diagnosis(model, window))

        return await to_thread.run_sync(ask, limiter=self._limiter(window))

    async def series(self) -> bytes:
        return generate_latest(self._registry)

    def _limiter(self, window: str | None) -> CapacityLimiter:
        return self._historians if window in HISTORY else self._readers


def _json(answer: StatisticsAnswer | DiagnosisAnswer) -> bytes:
    return answer.model_dump_json().encode()


def local_monitor(settings: Settings, meters: Meters, bucket_seconds: int) -> LocalMonitor:
    """The monitor that the settings ask for; raises `StartupError`."""
    store = _store(settings)
    thresholds = Thresholds(
        expected_hours_between_false_alarms=settings.false_alarm_hours,
        window_seconds=settings.diagnosis_minutes * bucket_seconds,
    )
    writer = webhook = None
    if store is not None:
        writer = HistoryWriter(store, Retention(store, settings.history_days, settings.history_megabytes * 1_000_000))
    if settings.webhook_url and settings.webhook_secret:
        # Those without one do without its client of HTTP.
        from service.monitor.webhook import Webhook

        webhook = Webhook(settings.webhook_url, settings.webhook_secret.get_secret_value())
    told = settings.webhook_severity
    traffic = Traffic(meters, settings.statistics_sample, thresholds, writer, webhook, bucket_seconds, told)
    return LocalMonitor(traffic, Windows(store, traffic.replica), TrafficCollector(traffic, writer, webhook))


def _store(settings: Settings) -> HistoryStore | None:
    """The history, which nothing is asked yet: that it cannot be reached is no reason not to start."""
    if not settings.history_address:
        return None
    try:
        return HistoryStore(open_engine(settings.history_address))
    except ValueError as error:
        raise StartupError(f"{error} (RESLENS_HISTORY_URL)") from error
