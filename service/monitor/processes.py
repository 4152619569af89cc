"""What the processes of one service have together: their counts, in files of Prometheus' client, memory and time."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

# Whoever starts several processes names a new directory here before the first of them imports Prometheus' client.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# Each of these has one of its own; all other series of a process can be added up.
_NOT_SUMS = ("process_start_time_seconds", "process_max_fds")
_LIVE = "gauge_livesum_"


class SharedCounts(Collector):
    """The series of all processes that share a directory. Those that have ended count; their gauges do not."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        """As Prometheus' client asks."""
        from service.monitor.ended import unmoved  # what locks files is not everywhere, nor are several processes

        with unmoved(self._directory):
            living = list(self._living())
            counts = list(MultiProcessCollector.merge(list(self._files())))  # type: ignore[no-untyped-call]
        yield from counts
        yield from _sum(ProcessCollector(pid=lambda pid=pid: pid, registry=None) for pid in living)  # type: ignore[misc]

    def _files(self) -> Iterator[str]:
        """Those with counts: a process that just makes one has not written yet how much is in it."""
        for file in self._directory.glob("*.db"):
            with contextlib.suppress(FileNotFoundError):  # the gauges of one that has ended
                if file.stat().st_size:
                    yield str(file)

    def _living(self) -> Iterator[int]:
        """The processes that run; what those that do not had in flight is forgotten."""
        for file in self._directory.glob(f"{_LIVE}*.db"):
            pid = int(file.stem.removeprefix(_LIVE))
            if lives(pid):
                yield pid
            else:
                file.unlink(missing_ok=True)  # others are asked, too


def shared_counts() -> Collector | None:
    """What all processes count together; None where there is one."""
    directory = os.environ.get(VARIABLE)
    return SharedCounts(Path(directory)) if directory else None


def lives(process: int) -> bool:
    """Whether there is a process with this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _sum(processes: Iterable[Collector]) -> Iterable[Metric]:
    """Memory, time and files of several processes; of their starts the first, of their limits the lowest."""
    sums: dict[str, Metric] = {}
    for process in processes:
        for metric in process.collect():
            if (total := sums.setdefault(metric.name, metric)) is metric:
                continue
            (before,), (sample,) = total.samples, metric.samples
            value = min(before.value, sample.value) if metric.name in _NOT_SUMS else before.value + sample.value
            total.samples = [before._replace(value=value)]
    return sums.values()
