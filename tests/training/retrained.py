"""Jobs of retraining against a real service, as tests begin, kill and ask them."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray

from models.repository import ModelRepository
from service.access.keys import new_key
from tests.service.processes import process
from training.commands.retrain import retrain as command
from training.data.sources import DataConfig
from training.outcomes import Failure, exit_code
from training.recipes.recipe import Recipe
from training.retraining.bounds import Bounds
from training.retraining.canary import Watching
from training.retraining.config import JobConfig
from training.retraining.job import retrain
from training.retraining.remote import Remote
from training.retraining.state import JobFolder, JobState

KEY, LINE = new_key("retraining")
OTHER_KEY, _ = new_key("stranger")
VERSION = 3
# Learned in a second or two; how good it is does not matter here.
RECIPE = Recipe(epochs=1, learning_rate=0.05)
WATCHING = Watching(watch_images=300, watch_seconds=60)
BOUNDS = Bounds(slowdown=9, class_floor=0, calibration_margin=1)


def config(home: Path, watching: Watching = WATCHING) -> JobConfig:
    # Where a folder is linked to, a job knows it by its own path.
    data = DataConfig("folder", str(home / "inverted"), mirrored=False).resolved()
    return JobConfig("digits", data, recipe=RECIPE, watching=watching, bounds=BOUNDS)


def run(home: Path, address: str, job: Path) -> JobState:
    repository = ModelRepository(home / "shelf")
    with Remote(f"http://{address}", KEY, patience=5) as remote:
        return retrain(config(home), JobFolder(job), repository, remote, torch.device("cpu"), say=lambda _: None)


def killed(home: Path, address: str, job: Path, step: str, written: bool) -> None:
    """Run the job in a process that is killed when a step is over, before or after that is written down."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"{step} was never over: {os.waitstatus_to_exitcode(status)}"
        assert os.WTERMSIG(status) == signal.SIGKILL
        return
    write = JobFolder.write

    def deadly(folder: JobFolder, state: JobState) -> None:
        if written or step not in state.done:
            write(folder, state)
        if step in state.done:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        JobFolder.write = deadly  # type: ignore[method-assign]
        run(home, address, job)
    finally:
        os._exit(1)


def change(job: Path, **options: Any) -> None:
    """Let a job have been begun with other options."""
    state = json.loads((job / "state.json").read_text())
    state["options"] |= options
    (job / "state.json").write_text(json.dumps(state))


def ask(home: Path, address: str, job: Path, **options: Any) -> tuple[int, dict[str, Any]]:
    """The exit code and the report of `python -m training retrain`, that of a failure too."""
    of_job = config(home)
    given = {"bounds": of_job.bounds, "watching": of_job.watching, "recipe": of_job.recipe, "data": of_job.new}
    given |= {"patience": 2.0, "threads": 1, "device": "cpu", **options}
    file = home / "report.json"
    try:
        command("digits", url=f"http://{address}", repository=home / "shelf", job=job, report=file, **given)
        code = 0
    except SystemExit as ended:
        code = int(str(ended.code))
    except Failure as error:
        code = exit_code(error)
    report = json.loads(file.read_text())
    assert report["exit_code"] == code
    return code, report


def labels(address: str) -> dict[str, int]:
    found: dict[str, int] = httpx.get(f"http://{address}/v1/models/digits/labels").json()["labels"]
    return found


def default(address: str) -> int:
    version: int = httpx.get(f"http://{address}/v1/models/digits").json()["version"]
    return version


def service(home: Path, **settings: object) -> Any:
    return process(home / "shelf", CONTROL_KEYS=LINE.line(), **{"STATISTICS_SAMPLE": 1, **settings})


class Asking:
    """Somebody who asks for the default version all the time."""

    def __init__(self, address: str, pixels: NDArray[np.uint8]) -> None:
        self.versions: set[str] = set()
        self._address, self._pixels = address, pixels
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _ask(self) -> None:
        tensor = {
            "name": "images",
            "datatype": "UINT8",
            "shape": self._pixels.shape,
            "data": self._pixels.ravel().tolist(),
        }
        with httpx.Client(base_url=f"http://{self._address}", timeout=30) as client:
            while not self._end.wait(0.01):
                answer = client.post("/v2/models/digits/infer", json={"inputs": [tensor]}).raise_for_status()
                self.versions.add(answer.json()["model_version"])
