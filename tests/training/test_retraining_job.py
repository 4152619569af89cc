"""The job against a real service: killed between all steps, refused, rolled back, and with nobody there."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from models.parity import SAMPLE, ParitySample
from models.repository import ModelRepository
from service.access.keys import new_key
from tests.service.processes import process
from tests.training.drifted import shelf_of_digits, write_inverted
from training.commands.retrain import retrain as command
from training.data.sources import DataConfig
from training.outcomes import Failure, exit_code
from training.recipes.recipe import Recipe
from training.retraining.bounds import Bounds
from training.retraining.canary import Watching
from training.retraining.config import JobConfig
from training.retraining.job import retrain
from training.retraining.material import parse_data
from training.retraining.remote import Remote
from training.retraining.state import JobFolder, JobState
from training.retraining.steps import STEPS

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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a shelf, and in `examined` the folder of a job that was killed after its gates had been asked."""
    folder = tmp_path_factory.mktemp("home")
    write_inverted(folder / "inverted", training=640)
    shelf_of_digits(folder / "shelf")
    with process(folder / "shelf", CONTROL_KEYS=LINE.line(), STATISTICS_SAMPLE=1) as address:
        for step in ("champion", "material", "train"):
            killed(folder, address, folder / "examined", step, written=False)
        killed(folder, address, folder / "examined", "examine", written=True)
    return folder


@pytest.fixture
def copied(home: Path, tmp_path: Path) -> Path:
    """The same, of one's own; the images are where the job knows them."""
    for name in ("shelf", "examined"):
        shutil.copytree(home / name, tmp_path / name)
    (tmp_path / "inverted").symlink_to(home / "inverted")
    return tmp_path


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESLENS_CONTROL_KEY", KEY)


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


def test_killed_at_every_step_it_ends_as_if_it_never_was(copied: Path, home: Path) -> None:
    job = copied / "examined"
    with service(copied) as address:
        for step in ("publish", "canary", "watch", "conclude"):
            killed(copied, address, job, step, written=False)
        state = run(copied, address, job)
        assert (state.outcome, list(state.done)) == ("promoted", list(STEPS))
        # Published, labelled, watched and promoted twice each, and there is one version.
        assert ModelRepository(copied / "shelf").versions("digits") == [VERSION, VERSION + 1]
        assert (labels(address), default(address)) == ({"stable": VERSION + 1}, VERSION + 1)
        assert state.done["watch"]["images"] >= WATCHING.watch_images
        assert state.done["watch"]["agreement"] == 1
        # Asked again, with nothing new, nothing is done.
        assert run(copied, address, job) == state
        code, report = ask(copied, address, job)
        assert (code, report["outcome"], report["challenger"]) == (0, "promoted", VERSION + 1)
        assert ModelRepository(copied / "shelf").versions("digits") == [VERSION, VERSION + 1]
        # A finding in a version that is not served any more is no reason to begin.
        code, report = ask(copied, address, copied / "other", found_in=VERSION)
        assert (code, report["outcome"]) == (0, "outdated")
    manifest = ModelRepository(copied / "shelf").open("digits").manifest
    assert manifest.training is not None
    assert manifest.training.options["retrained_from"] == VERSION
    assert manifest.training.training_images == 640
    original = ModelRepository(home / "shelf").open("digits", VERSION)
    assert original.manifest == ModelRepository(copied / "shelf").open("digits", VERSION).manifest


def test_what_a_gate_refuses_is_not_published(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = copied / "examined"
    state = json.loads((job / "state.json").read_text())
    state["done"]["examine"]["gates"][0] |= {"passed": False, "sentence": "accuracy 3 % (champion 99 %)"}
    (job / "state.json").write_text(json.dumps(state))
    with service(copied) as address:
        for _ in range(2):
            code, report = ask(copied, address, job)
            assert (code, report["outcome"]) == (3, "refused")
            assert report["message"] == "accuracy_new: accuracy 3 % (champion 99 %)"
            assert [gate["name"] for gate in report["gates"]][-1] == "statistics"
        assert (labels(address), default(address)) == ({"stable": VERSION}, VERSION)
    assert ModelRepository(copied / "shelf").versions("digits") == [VERSION]
    assert "refused: accuracy_new" in capsys.readouterr().out


def test_a_canary_that_nobody_could_watch_is_rolled_back(copied: Path) -> None:
    job, watching = copied / "examined", replace(WATCHING, watch_seconds=0.5)
    change(job, watching=config(copied, watching).options()["watching"])
    with service(copied, STATISTICS_SAMPLE=0) as address:
        code, report = ask(copied, address, job, watching=watching)
        assert (code, report["outcome"]) == (4, "rolled_back")
        assert "watched 0 of 300 images" in report["message"]
        assert (labels(address), default(address)) == ({"stable": VERSION}, VERSION)
    # The version is there, and a service that starts anew serves the champion all the same.
    assert ModelRepository(copied / "shelf").versions("digits") == [VERSION, VERSION + 1]
    with service(copied) as address:
        assert default(address) == VERSION


def test_a_canary_with_findings_is_rolled_back(copied: Path, tmp_path: Path) -> None:
    """Traffic that is not what it learned."""
    shutil.copytree(copied / "inverted" / "test" / "1", tmp_path / "ones")
    job, watching = copied / "examined", replace(WATCHING, watch_severity="warning", traffic=tmp_path / "ones")
    change(job, watching=config(copied, watching).options()["watching"])
    with service(copied) as address:
        code, report = ask(copied, address, job, watching=watching)
        assert (code, report["outcome"]) == (4, "rolled_back")
        assert report["watch"]["findings"]
        assert labels(address) == {"stable": VERSION}


def test_a_canary_that_does_not_load_is_rolled_back(copied: Path) -> None:
    job = copied / "examined"
    manifest = ModelRepository(copied / "shelf").open("digits").manifest
    file = job / "candidate" / SAMPLE
    sample = ParitySample.from_bytes(file.read_bytes(), manifest.preprocessing, 10)
    file.write_bytes(replace(sample, logits=sample.logits + np.float32(1)).to_bytes())
    with service(copied) as address:
        code, report = ask(copied, address, job)
        assert (code, report["outcome"]) == (4, "rolled_back")
        assert "cannot load it" in report["message"]
        assert "parity sample" in report["message"]
        assert (labels(address), default(address)) == ({"stable": VERSION}, VERSION)


def test_who_may_not_control_is_told_before_any_training(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with service(copied) as address:
        before = labels(address)
        for key in (OTHER_KEY, ""):
            monkeypatch.setenv("RESLENS_CONTROL_KEY", key)
            code, report = ask(copied, address, copied / "job")
            assert (code, report["outcome"], report["steps"]) == (6, "forbidden", [])
            assert "401" in report["message"]
        assert labels(address) == before


def test_a_service_that_is_not_there_is_asked_again_for_a_while(copied: Path) -> None:
    job = copied / "examined"
    before = json.loads((job / "state.json").read_text())["done"]
    code, report = ask(copied, "127.0.0.1:9", job, patience=0.3)
    assert (code, report["outcome"]) == (5, "unreachable")
    # What was done stays done, and what needs no service goes on.
    assert report["steps"] == [*before, "publish"]


def test_one_job_at_a_time_and_of_one_kind(copied: Path) -> None:
    job = copied / "examined"
    with JobFolder(job).alone():
        code, report = ask(copied, "127.0.0.1:9", job)
    assert (code, report["outcome"]) == (7, "busy")
    with pytest.raises(ValueError, match=r"not over .*epochs was 1, now 2.*--fresh"):
        command("digits", config(copied).new, replace(RECIPE, epochs=2), BOUNDS, WATCHING, job=job, url="http://x")


def test_a_stable_label_elsewhere_is_a_mistake(copied: Path) -> None:
    shutil.copytree(copied / "shelf" / "digits" / str(VERSION), copied / "shelf" / "digits" / "2")
    manifest = copied / "shelf" / "digits" / "2" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"version": {VERSION}', '"version": 2'))
    with service(copied) as address:
        label = f"http://{address}/v1/models/digits/labels/stable"
        httpx.put(label, json={"version": 2}, headers={"X-API-Key": KEY}, timeout=30).raise_for_status()
        with pytest.raises(ValueError, match=r"'stable' is of version 2, and version 3 is served"):
            command("digits", config(copied).new, RECIPE, job=copied / "job", url=f"http://{address}", threads=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": "folder"}, "needs --data-dir"),
        ({"data": "nothing"}, "data"),
        ({"folder": "here"}, "unknown folder"),
        ({"data": "folder", "data_dir": "x", "image_size": "large"}, "image_size"),
    ],
)
def test_old_data_that_is_none_is_a_mistake(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_data(given)


def test_old_data_is_named_as_options_are() -> None:
    expected = DataConfig("folder", "x", image_size=32)
    assert parse_data({"data": "folder", "--data-dir": "x", "image-size": "32"}) == expected


def test_a_damaged_state_is_said(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot be read .*--fresh"):
        JobFolder(tmp_path).read()
    # Whoever waits for the lock gets it when the other one is gone.
    with JobFolder(tmp_path).alone():
        pass
    with JobFolder(tmp_path).alone():
        JobFolder(tmp_path).start({})
