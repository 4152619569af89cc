"""Callers where `wrk` is not installed: `python -m benchmarks.load PORT REQUEST_FILE CALLERS SECONDS`.

They are those of `python -m service bench`, in this process. Prints one JSON line.
"""

import json
import sys
import time
from pathlib import Path

from service.commands.load import CONNECT_SECONDS, Address, run


def main() -> None:
    """Run as a program."""
    port, file, callers, seconds = sys.argv[1:]
    address = Address("127.0.0.1", int(port), encrypted=False)
    request = Path(file).read_bytes()
    measured = run(address, request, int(callers), time.time() + CONNECT_SECONDS, float(seconds))
    latencies = sorted(measured.latencies)
    figures: dict[str, float] = {"requests": len(latencies), "failed": sum(measured.errors.values())}
    if latencies:
        shares = {"p50": 0.5, "p99": 0.99}
        figures |= {name: latencies[int(share * (len(latencies) - 1))] for name, share in shares.items()}
    print(json.dumps(figures | {"per_second": len(latencies) / float(seconds)}))


if __name__ == "__main__":
    main()
