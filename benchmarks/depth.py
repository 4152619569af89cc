"""What a network costs as it becomes deeper: building, exporting, loading, instrumenting, and answering one request.

Each depth has a process of its own, so that its peak of resident memory is its own. Processor time, not the clock:
other work on the machine makes the clock say anything.
"""

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.server import running

NETWORKS = ("resnet20", "resnet56", "resnet110", "resnet164", "resnet1001", "resnet1202")
ARRANGEMENTS = {"resnet164": "full_preactivation", "resnet1001": "full_preactivation"}
STEPS = ("build", "export", "load", "instrument", "tap", "answer")
SIZE = 32

# Prints one JSON object a step: seconds of all threads, and MiB at most resident so far.
_PROGRAM = """
import json, resource, sys, time
from pathlib import Path
import torch
from benchmarks.networks import calibrated, described, random_pixels, untrained_classifier
from models.instrument import instrument
from models.repository import ModelRepository
from models.statistics.layers import StatisticsReader
from models.statistics.layout import output_widths
from service.runtime.compiled import CompiledStatistics
from service.runtime.provider import CPU
from service.runtime.sessions import Sessions
from training.export.graph import export
from training.resnet.network import NetworkConfig

network, arrangement, size, root = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
torch.set_num_threads(1)
config = NetworkConfig(network, arrangement=arrangement)

def step(name, function):
    started = time.process_time()
    value = function()
    seconds, peak = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"step": name, "seconds": seconds, "peak_MiB": peak}), flush=True)
    return value

step("import", lambda: None)
step("build", lambda: untrained_classifier(config))
# Normalised as after training: sums of a thousand branches that are not would be too large for any tolerance.
classifier = calibrated(config, size, gain=0.3)
exported = step("export", lambda: export(classifier, config.activation, (3, size, size)))
manifest = described(exported, config, size)
graph = exported.model.SerializeToString()
sessions = Sessions(CPU, threads=1)
plain = step("load", lambda: sessions.open(graph))
step("instrument", lambda: instrument(exported.model, manifest))
statistics = step("tap", lambda: CompiledStatistics(sessions, exported.model, manifest))
names = list(output_widths(manifest))
images = random_pixels(1, size)

def answer():
    values = dict(zip(names, statistics.run(names, images), strict=True))
    return StatisticsReader(manifest).image(values, 0, channels=False)

answer()
step("answer", answer)
ModelRepository(root).publish(
    network,
    {"model.onnx": graph},
    lambda version, digests: manifest.model_copy(update={"name": network, "version": version, "digests": digests}),
)
"""


def depth() -> list[dict[str, str]]:
    """One row a network: seconds of the processor for each step, and the peak of resident memory."""
    rows = []
    for network in NETWORKS:
        with tempfile.TemporaryDirectory() as directory:
            measured = _measure(network, Path(directory))
            row = {"network": network} | {f"{step} s": f"{measured[step]['seconds']:.3g}" for step in STEPS}
            row["imports MiB"] = f"{measured['import']['peak_MiB']:.0f}"
            row["peak MiB"] = f"{max(entry['peak_MiB'] for entry in measured.values()):.0f}"
            rows.append(row | _served(network, Path(directory)))
    return rows


def _measure(network: str, root: Path) -> dict[str, dict[str, float]]:
    arrangement = ARRANGEMENTS.get(network, "original")
    command = [sys.executable, "-c", _PROGRAM, network, arrangement, str(SIZE), str(root)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {entry["step"]: entry for entry in map(json.loads, output.splitlines())}


def _served(network: str, root: Path) -> dict[str, str]:
    """The service on the published bundle, and one `classify` with layer statistics over a socket."""
    image = root.parent / f"{root.name}.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(image)
    content = image.read_bytes()
    image.unlink()
    with running(root, WORKERS=1) as server:
        url = f"http://127.0.0.1:{server.port}/v1/models/{network}/classify?statistics=layers"
        request = urllib.request.Request(url, content, {"Content-Type": "image/png"})
        with urllib.request.urlopen(request, timeout=120) as response:
            (classified,) = json.load(response)["images"]
        resident, _ = server.memory()
        return {
            "ready after s": f"{server.ready_seconds:.1f}",
            "layers in the answer": str(len(classified["statistics"]["layers"])),
            "service MB": f"{resident:.0f}",
        }
