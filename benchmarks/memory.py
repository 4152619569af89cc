"""Resident memory of one model in a process of its own: the plain session, and what the instrumented one adds."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.networks import untrained
from models.instrument import instrument
from training.resnet.network import NetworkConfig

CASES = (
    (NetworkConfig("resnet20", "relu"), 32),
    (NetworkConfig("resnet50", "relu", classes=1000), 224),
)

# Opens the sessions of the files named, and prints the resident memory before and after each.
_PROGRAM = """
import ctypes, gc, json, pathlib, sys
from service.runtime.provider import CPU
from service.runtime.sessions import Sessions

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    fields = dict(line.split(":") for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024

sessions = Sessions(CPU, threads=1)
resident_MiB, kept = [resident()], []
for file in sys.argv[1:]:
    kept.append(sessions.open(pathlib.Path(file).read_bytes()))
    resident_MiB.append(resident())
print(json.dumps(resident_MiB))
"""


def memory() -> list[dict[str, str]]:
    """One row a network, in MiB."""
    rows = []
    for config, size in CASES:
        graph, manifest = untrained(config, size)
        with tempfile.TemporaryDirectory() as directory:
            plain, instrumented = (Path(directory) / name for name in ("plain.onnx", "instrumented.onnx"))
            plain.write_bytes(graph.SerializeToString())
            instrumented.write_bytes(instrument(graph, manifest).SerializeToString())
            together = _resident(plain, instrumented)
            weights = plain.stat().st_size / 2**20
        rows.append(
            {
                "network": config.network,
                "graph MiB": f"{weights:.1f}",
                "plain session MiB": f"{together[1] - together[0]:.1f}",
                "instrumented session adds MiB": f"{together[2] - together[1]:.1f}",
            }
        )
    return rows


def _resident(*files: Path) -> list[float]:
    command = [sys.executable, "-c", _PROGRAM, *map(str, files)]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: list[float] = json.loads(output.stdout)
    return measured
