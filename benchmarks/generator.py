"""Callers in a closed loop: `wrk` where it is installed, which takes little of a processor, else `benchmarks.load`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.requests import Post

# A JSON line at the end, as `benchmarks.load` prints.
_SCRIPT = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
{headers}
function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format('{{"requests": %d, "per_second": %f, "p50": %f, "p99": %f, "failed": %d}}',
    summary.requests, summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
"""


class Measured(NamedTuple):
    """Requests a second, and seconds from a request to its answer."""

    per_second: float
    p50: float
    p99: float


class Generator:
    """Sends one request again and again from so many callers, each as soon as it is answered.

    Raises `RuntimeError` if one is not answered with 200, or none is answered.
    """

    def __init__(self, port: int, request: Post, callers: int, seconds: float, directory: Path) -> None:
        self.measured: list[Measured] = []
        name = f"{len(list(directory.iterdir()))}"
        self._command = (
            _wrk(port, request, callers, seconds, directory / name)
            if shutil.which("wrk")
            else _load(port, request, callers, seconds, directory / name)
        )

    def __call__(self) -> float:
        """Load the service; returns the requests a second, and remembers what was measured."""
        run = subprocess.run(self._command, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
        result = json.loads(run.stdout.splitlines()[-1])
        if result.get("failed"):
            raise RuntimeError(f"{result['failed']} of {result['requests']} requests were not answered with 200")
        if not result["requests"]:
            raise RuntimeError("no request was answered in time: measure for longer")
        self.measured.append(Measured(result["per_second"], result["p50"], result["p99"]))
        return self.measured[-1].per_second


def _wrk(port: int, request: Post, callers: int, seconds: float, file: Path) -> list[str]:
    file.write_bytes(request.body)
    script = file.with_suffix(".lua")
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in request.headers.items())
    script.write_text(_SCRIPT.format(body=file, headers=headers))
    # One thread: that takes more requests than all the cores can answer.
    options = ["-t1", f"-c{callers}", f"-d{max(1, round(seconds))}", "--timeout", "60", "-s", str(script)]
    return ["wrk", *options, f"http://127.0.0.1:{port}{request.path}"]


def _load(port: int, request: Post, callers: int, seconds: float, file: Path) -> list[str]:
    file.write_bytes(request.message())
    return [sys.executable, "-m", "benchmarks.load", str(port), str(file), str(callers), str(seconds)]
