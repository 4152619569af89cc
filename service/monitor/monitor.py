"""The monitor as the rest of the service knows it: it is given runs, and asked about them."""

from typing import Protocol

from service.monitor.subject import Subject
from service.runtime.observation import Observer


class Monitor(Protocol):
    """Watches traffic, in this process or in another one."""

    async def start(self) -> None: ...

    async def close(self) -> None:
        """Keep what was seen; takes a few seconds at most."""

    def observer(self) -> Observer | None:
        """What is to be given the outputs of a request, if it is watched."""

    async def statistics(self, model: Subject, window: str) -> bytes:
        """A `StatisticsAnswer` in JSON."""

    async def diagnosis(self, model: Subject, window: str | None) -> bytes:
        """A `DiagnosisAnswer` in JSON."""

    async def series(self) -> bytes:
        """The monitor's own series, in the text format of Prometheus."""
