"""Requests a second of the whole service over a socket, against ONNX Runtime with nothing around it."""

import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.pairing import interleave, paired_ratio
from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from service.runtime.cpus import available_cpus

MODEL = "cifar10-resnet20-relu"
CALLERS = (1, 8)
SECONDS = 2.0
ROUNDS = 6


def serving() -> list[dict[str, str]]:
    """One row a kind of request and number of callers."""
    bundle = ModelRepository(SHIPPED_MODELS).open(MODEL)
    rows = []
    with tempfile.TemporaryDirectory() as directory, _service() as port:
        requests = {name: Path(directory) / name.replace(" ", "-") for name in ("infer JSON", "classify", "statistics")}
        shape = bundle.manifest.inputs[0].shape[1:]
        requests["infer JSON"].write_bytes(_infer_request(shape))
        requests["classify"].write_bytes(_classify_request(shape, "none"))
        requests["statistics"].write_bytes(_classify_request(shape, "layers"))
        for callers in CALLERS:
            arms = {"bare": partial(_bare, bundle.path / "model.onnx", callers)}
            arms |= {name: partial(_load, port, file, callers) for name, file in requests.items()}
            rates = interleave(arms, ROUNDS)
            rows += [
                {
                    "arm": name,
                    "callers": str(callers),
                    "requests/s": f"{np.median(rates[name]):.0f}",
                    "share of bare": str(paired_ratio(rates[name], rates["bare"])),
                    "rounds": str(ROUNDS),
                }
                for name in arms
            ]
    return rows


@contextmanager
def _service() -> Iterator[int]:
    """The real service in a process of its own, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "HOST": "127.0.0.1", "PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, stdout=subprocess.DEVNULL)
    try:
        _wait_until_ready(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with exit code {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError("the service was not ready after 30 s")


def _infer_request(shape: tuple[int, ...]) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, *shape], "data": pixels.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()
    return _post(f"/v2/models/{MODEL}/infer", "application/json", body)


def _classify_request(shape: tuple[int, ...], statistics: str) -> bytes:
    # Smooth, as photographs are: noise would make a JPEG several times larger.
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, shape[0])).astype(np.uint8)
    image = Image.fromarray(noise).resize((shape[2], shape[1]), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return _post(f"/v1/models/{MODEL}/classify?statistics={statistics}", "image/jpeg", buffer.getvalue())


def _post(path: str, content_type: str, body: bytes) -> bytes:
    head = (f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}", f"Content-Length: {len(body)}")
    return "\r\n".join((*head, "", "")).encode() + body


def _load(port: int, request: Path, callers: int) -> float:
    return _run("benchmarks.load", "127.0.0.1", str(port), str(request), str(callers), str(SECONDS))


def _bare(model: Path, callers: int) -> float:
    return _run("benchmarks.bare", str(model), str(available_cpus()), str(callers), str(SECONDS))


def _run(module: str, *arguments: str) -> float:
    """Run a load in a process of its own and return its requests a second."""
    command = [sys.executable, "-m", module, *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    return float(json.loads(output.stdout)["per_second"])
