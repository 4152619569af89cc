"""ONNX Runtime with nothing around it: `python -m benchmarks.bare MODEL_FILE THREADS CALLERS SECONDS`.

Callers are threads that share one session, opened as the service opens it, and run batches of one image in a closed
loop. Prints one JSON line.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from service.runtime.provider import choose_provider
from service.runtime.sessions import Sessions


def main() -> None:
    """Run as a program."""
    file, threads, callers, seconds = sys.argv[1:]
    session = Sessions(choose_provider("auto"), int(threads)).open(Path(file).read_bytes())
    (node,) = session.get_inputs()
    feed = {node.name: np.random.default_rng(0).integers(0, 256, (1, *node.shape[1:])).astype(np.float32)}
    session.run(None, feed)
    deadline = time.perf_counter() + float(seconds)

    def call(_: int) -> int:
        count = 0
        while time.perf_counter() < deadline:
            session.run(None, feed)
            count += 1
        return count

    with ThreadPoolExecutor(int(callers)) as pool:
        total = sum(pool.map(call, range(int(callers))))
    print(json.dumps({"requests": total, "per_second": total / float(seconds)}))


if __name__ == "__main__":
    main()
