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
SAMPLES = 60
START_SECONDS = 120.0


class Plan(NamedTuple):
    """How much is asked, and how."""

    requests: int
    seconds: float
    callers: int
    pause: float
    """Seconds between two changes of what is served."""


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
    """Ask until the requests are made or the time is up."""
    tally, samples = Tally(), [Sample(0, used(pid))]
    started = time.monotonic()
    end = started + plan.seconds
    messages = itertools.islice(itertools.cycle(asks(targets(root), VARIANTS)), plan.requests)
    changes, over = Changes(root, port, tally), asyncio.Event()
    changing = asyncio.create_task(changes.run(plan.pause, over))
    calling = asyncio.gather(*(call(port, messages, tally, end) for _ in range(plan.callers)))
    step = max(1, plan.requests // SAMPLES)
    while not calling.done():
        await asyncio.wait([calling], timeout=0.05)
        if tally.sent >= samples[-1].requests + step:
            # In a thread: reading takes a while, and the callers do not wait for it.
            samples.append(Sample(tally.sent, await asyncio.to_thread(used, pid)))
            progress(tally.sent)
    over.set()
    await asyncio.gather(calling, changing)
    return Outcome(tally, changes.made, samples, time.monotonic() - started)
