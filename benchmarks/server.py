"""The real service in processes of its own, as its users start it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 300


@dataclass(frozen=True)
class Server:
    """A service that is ready."""

    port: int
    pid: int
    ready_seconds: float
    """From the command to the first answer that says so."""

    def memory(self) -> tuple[float, float]:
        """MB resident of all its processes, and the same with what they share counted once; NaN where /proc is not."""
        processes = _family(self.pid)
        return _sum(processes, "Rss"), _sum(processes, "Pss")


@contextlib.contextmanager
def running(repository: Path, **settings: object) -> Iterator[Server]:
    """`python -m service` on a free port; `RESLENS_*` of the environment count, and `settings` more."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    chosen = {"MODEL_REPOSITORY": repository, "HISTORY_URL": "", **settings}
    environment = {**os.environ, "HOST": "127.0.0.1", "PORT": str(port)}
    environment |= {f"RESLENS_{name}": str(value) for name, value in chosen.items()}
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, stdout=subprocess.DEVNULL)
    try:
        _wait_until_ready(port, process)
        yield Server(port, process.pid, time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with exit code {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.01)
    raise RuntimeError(f"the service was not ready after {START_SECONDS} s")


def _family(pid: int) -> set[int]:
    """A process and all that descend from it."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _sum(processes: set[int], field: str) -> float:
    total = 0.0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            return float("nan")
        total += next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1e3
    return total
