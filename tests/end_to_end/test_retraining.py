"""Once round: drift in the traffic → finding → webhook → retraining → canary with a share → promotion → no finding."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from models.choice import parse_choice
from models.repository import ModelRepository
from service.access.keys import new_key
from tests.service.conftest import eventually, serving
from tests.service.processes import ROOT
from tests.training.drifted import DIGITS, inverted, shelf_of_digits, write_inverted

SECRET = "of the webhook"
PIXELS = inverted(DIGITS.held_out.pixels)
LABELS = DIGITS.held_out.labels
VERSION = 3


def infer(client: httpx.Client, pixels: NDArray[np.uint8]) -> tuple[int, NDArray[np.int64]]:
    """The default version, and the classes that it finds."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": pixels.shape, "data": pixels.ravel().tolist()}
    answer = client.post("/v2/models/digits/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    output = answer.json()["outputs"][0]
    return int(answer.json()["model_version"]), np.array(output["data"]).reshape(output["shape"]).argmax(1)


class Traffic:
    """Somebody who sends drifted images all the time, and counts by version how many were classified correctly."""

    def __init__(self, client: httpx.Client) -> None:
        self.right: dict[int, list[bool]] = {}
        self._client = httpx.Client(base_url=client.base_url, timeout=30)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._client.close()

    def _send(self) -> None:
        # 160 images a second: enough for a rule to speak every second or two, little enough for others to run.
        start = 0
        while not self._end.wait(0.2):
            chosen = np.arange(start, start + 32) % len(PIXELS)
            version, classes = infer(self._client, PIXELS[chosen])
            self.right.setdefault(version, []).extend((classes == LABELS[chosen]).tolist())
            start += 32


@contextlib.contextmanager
def watching(port: int, folder: Path, key: str, *options: str) -> Iterator[None]:
    """`python -m training watch`, as a process of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RESLENS_WEBHOOK_SECRET": SECRET,
        "RESLENS_CONTROL_KEY": key,
    }
    command = [sys.executable, "-m", "training", "watch", "--name", "digits", "--listen", f"127.0.0.1:{port}"]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen([*command, "--", *options], cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            eventually(lambda: re.search("listening", (folder / "log").read_text()), 240)
            yield
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(60)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def drift_of(client: httpx.Client) -> tuple[int, int, list[Any]]:
    """Of the version that is served by default: its number, the windows that were judged, and what drifted."""
    answer = client.get("/v1/models/digits/diagnosis").json()
    drifted = [finding for finding in answer["confirmed"] if finding["rule"] == "drift"]
    return answer["version"], len(answer["judged"]), drifted


def test_drift_is_found_learned_tried_and_gone(tmp_path: Path) -> None:
    shelf = shelf_of_digits(tmp_path / "shelf")
    write_inverted(tmp_path / "inverted", training=960)
    key, line = new_key("retraining")
    port = free_port()
    settings = {
        "statistics_sample": 1,
        "diagnosis_minutes": 1,
        "control_keys": line.line(),
        "webhook_url": f"http://127.0.0.1:{port}/",
        "webhook_secret": SECRET,
        "webhook_severity": "warning",
    }
    report = tmp_path / "report.json"
    options = ["--data", "folder", "--data-dir", str(tmp_path / "inverted"), "--mirrored", "False", "--epochs", "3"]
    options += ["--learning-rate", "0.05", "--watch-images", "200", "--share", "50", "--repository", str(shelf)]
    options += ["--threads", "1", "--report", str(report)]
    with serving(shelf, bucket_seconds=1, **settings) as client:
        options += ["--url", str(client.base_url)]
        with watching(port, tmp_path, key, *options), Traffic(client) as traffic:
            # Asked seldom: what is asked is worked out, and that is dear.
            eventually(lambda: drift_of(client)[2], 240, every=0.5)
            assert drift_of(client)[0] == VERSION
            eventually(report.exists, 400, every=0.2)
            told = json.loads(report.read_text())
            assert told["outcome"] == "promoted", (tmp_path / "log").read_text()
            # Judged by what others asked.
            assert told["watch"]["shared"] >= 200
            # Enough windows of the new version for a finding to be confirmed, if there were one.
            eventually(lambda: drift_of(client)[:2] >= (VERSION + 1, 5), 240, every=0.5)
            version, _, drifted = drift_of(client)
        assert (version, drifted) == (VERSION + 1, [])
        labels = client.get("/v1/models/digits/labels").json()["labels"]
    assert labels == {"stable": VERSION + 1}
    # It was bad, and is good.
    before, after = (float(np.mean(traffic.right[number])) for number in (VERSION, VERSION + 1))
    assert before < 0.5
    assert after > 0.85
    assert ModelRepository(shelf).versions("digits") == [VERSION, VERSION + 1]
    choice = parse_choice((shelf / "digits" / "serving.json").read_bytes())
    assert (choice.default, choice.previous) == (VERSION + 1, (VERSION,))
