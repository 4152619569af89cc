"""One soak: a service, its callers, its changes, and samples of its memory."""

import asyncio
import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

from benchmarks.soak.asks import Target, asks
from benchmarks.soak.callers import Tally, call
from benchmarks.soak.changes import Changes
from benchmarks.soak.memory import Sample, used
from models.repository import ModelRepository

VARIANTS = 500
# What the service does after the last answer, such as reducing samples, is over then.
QUIET_SECONDS = 0.5
START_SECONDS = 120.0


class Plan(NamedTuple):
    """How much is asked, and how."""

    requests: int
    seconds: float
    callers: int
    rounds: int


class Outcome(NamedTuple):
    tally: Tally
    changes: Mapping[str, int]
    samples: list[Sample]
    seconds: float


@contextmanager
def service(root: Path, module: str = "service", **settings: object) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`python -m module` over the models below `root`, and its port. Raises `RuntimeError` if it does not start."""
    chosen = {"RESLENS_MODEL_REPOSITORY": root, "RESLENS_HOST": "127.0.0.1", "RESLENS_PORT": 0, **settings}
    environment = os.environ | {name: str(value) for name, value in chosen.items()}
    with TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, "-m", module], env=environment, stdout=log, stderr=log)
        try:
            yield process, _port(process, lambda: os.pread(log.fileno(), 1 << 20, 0))
        finally:
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()


def _port(process: subprocess.Popen[bytes], said: Callable[[], bytes]) -> int:
    end = time.monotonic() + START_SECONDS
    while not (found := re.search(rb"http://127\.0\.0\.1:(\d+) ", said())):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the service did not start: {said().decode(errors='replace')}")
        time.sleep(0.05)
    return int(found[1])


def targets(root: Path) -> list[Target]:
    """Every model of a repository."""
    repository = ModelRepository(root)
    found = []
    for name in repository.names():
        channels, height, width = repository.open(name).manifest.inputs[0].shape[1:]
        found.append(Target(name, (channels, height, width)))
    return found


async def soak(root: Path, pid: int, port: int, plan: Plan, progress: Callable[[int], object]) -> Outcome:
    """Ask until the requests are made or the time is up.

    In rounds, each with all changes there are: memory is looked at between them, when the same versions are loaded.
    """
    tally, samples = Tally(), [Sample(0, used(pid))]
    changes = Changes(root, port, tally)
    numbered = enumerate(itertools.cycle(asks(targets(root), VARIANTS)), 1)
    started = time.monotonic()
    end = started + plan.seconds
    while tally.sent < plan.requests and time.monotonic() < end:
        messages = itertools.islice(numbered, max(1, plan.requests // plan.rounds))
        await asyncio.gather(changes.cycle(), *(call(port, messages, tally, end) for _ in range(plan.callers)))
        await asyncio.sleep(QUIET_SECONDS)
        samples.append(Sample(tally.sent, used(pid)))
        progress(tally.sent)
    return Outcome(tally, changes.made, samples, time.monotonic() - started)
