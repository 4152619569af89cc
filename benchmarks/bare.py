"""ONNX Runtime with nothing around it: `python -m benchmarks.bare MODEL_FILE PROCESSES SECONDS`.

Every process has one session, opened as the service opens it, with one thread, and runs batches of one image in a
loop, all at the same time. Prints one JSON line.
"""

import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from service.runtime.provider import CPU
from service.runtime.sessions import Sessions

WARM_UP = 10


def runs(file: str, seconds: float, together: Barrier) -> float:
    """Runs a second of this process."""
    sessions = Sessions(CPU, threads=1)  # owns the weights: it must live as long as the session
    session = sessions.open(Path(file).read_bytes())
    (node,) = session.get_inputs()
    feed = {node.name: np.random.default_rng(0).integers(0, 256, (1, *node.shape[1:])).astype(np.float32)}
    for _ in range(WARM_UP):
        session.run(None, feed)
    together.wait()
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        session.run(None, feed)
        count += 1
    return count / elapsed


_together: Barrier | None = None


def _join(together: Barrier) -> None:
    global _together
    _together = together


def _run(file: str, seconds: float) -> float:
    assert _together is not None
    return runs(file, seconds, _together)


def main() -> None:
    """Run as a program."""
    file, processes, seconds = sys.argv[1:]
    count = int(processes)
    fresh = multiprocessing.get_context("spawn")
    # Not multiprocessing's pool, which waits for ever for a process that is gone.
    with ProcessPoolExecutor(count, fresh, _join, (fresh.Barrier(count),)) as pool:
        rates = pool.map(_run, [file] * count, [float(seconds)] * count)
        print(json.dumps({"per_second": sum(rates)}))


if __name__ == "__main__":
    main()
