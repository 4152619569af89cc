"""A server of MLflow that is slow or out of order, and runs that end in other ways: what becomes of the points."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tests.training.conftest import ROOT
from tests.training.small import Crash, SilentBar, problem
from tests.training.tracked import EXPERIMENT, empty_store, history, only_run, store, tracking_server
from training.activations.catalogue import find_activation
from training.loop.checkpoint import Saving
from training.loop.trainer import Trainer
from training.outcomes import StoppedError
from training.probes.course import EVERY
from training.probes.probing import Probing
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig
from training.tracking import courier
from training.tracking import keeper as keeper_module
from training.tracking.keeper import About, MLflow, tracked
from training.tracking.outbox import Outbox, Sent

__all__ = ["empty_store", "store"]
# MLflow uses what the newest SQLAlchemy and Flask call deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ABOUT = About("mine", {"recipe.seed": "0"}, {"data": "brightness"}, ())
# 40 images in batches of 2.
RECIPE = Recipe(epochs=2, batch_size=2)


def train(folder: Path, address: str, said: list[str], crash: int | None = None) -> None:
    """As `train` does, from the checkpoint if there is one."""
    folder.mkdir(exist_ok=True)
    trainer = Trainer(NetworkConfig("resnet8", classes=3, channels=1), RECIPE, problem(), torch.device("cpu"))
    trainer.saving = Saving(checkpoint_steps=7)
    keeper = MLflow(folder / "mlflow", ABOUT, address, said.append)
    trainer.watches.extend(Probing(probe_every=15).watches(find_activation("relu"), folder, said.append, [keeper]))
    if crash is not None:
        trainer.watches.append(Crash(crash))
    if (folder / "checkpoint.pt").exists():
        trainer.restore(folder / "checkpoint.pt")
    with tracked(keeper, {"folder": str(folder)}):
        trainer.train(folder / "checkpoint.pt", SilentBar())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that has other things to do."""
    monkeypatch.setattr(courier, "PATIENCE", 120.0)


# The server is of this process, and so are its warnings.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("patient")
def test_what_a_server_that_is_out_of_order_missed_it_gets_later(store: str, tmp_path: Path) -> None:
    folder, said = tmp_path / "run", list[str]()
    with tracking_server(store) as (address, front):
        front.mode = "out of order"
        with pytest.raises(RuntimeError, match="power failure"):
            train(folder, address, said, crash=31)
        assert front.asked >= 2
        (first, last) = (sentence for sentence in said if "MLflow" in sentence or "points" in sentence)
        assert first.startswith("warning: MLflow cannot be told (ResponseError('too many 500 error responses')): ")
        assert last.endswith(f"points are not sent yet: they are kept in {folder / 'mlflow'}, and --resume sends them")
        front.mode = "well"
        # The newest checkpoint is of step 27: the reading of step 30 comes once more.
        train(folder, address, said)
    run = only_run(store)
    assert said[-1] == f"MLflow has it as run {run.info.run_id} in {address} {EXPERIMENT}"
    assert not [sentence for sentence in said if "View run" in sentence]
    assert (run.info.status, run.data.params) == ("FINISHED", {"recipe.seed": "0"})
    kept = history(store, run.info.run_id)
    assert [step for step, _ in kept["loss"]] == [0, EVERY]
    assert [step for step, _ in kept["held_out_accuracy"]] == [19, 39]
    assert [step for step, _ in kept["gradient_rms/conv1"]] == [0, 15, 30]
    assert [file.name for file in (tmp_path / "artifacts").rglob("report.json")] == ["report.json"]


def test_a_server_that_does_not_answer_stops_nothing(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "PATIENCE", 4.0)
    said: list[str] = []
    with tracking_server(store) as (address, front):
        front.mode = "hanging"
        started = time.monotonic()
        train(tmp_path / "run", address, said)
        assert time.monotonic() - started < 30
    (sentence,) = (each for each in said if "MLflow" in each)
    assert "MLflow was not told all within 4 s: the rest is kept in" in sentence
    assert Sent.read(tmp_path / "run" / "mlflow").position == 0


@pytest.mark.usefixtures("patient")
def test_a_run_that_says_nothing_of_its_end_was_killed(store: str, tmp_path: Path) -> None:
    said: list[str] = []
    keeper = MLflow(tmp_path / "mlflow", ABOUT, None, said.append)
    keeper.begin(0)
    keeper.tell("steps", 0, {"loss": 2.0})
    assert keeper._courier is not None
    until = time.monotonic() + 60
    while not Sent.read(tmp_path / "mlflow").run and time.monotonic() < until:
        time.sleep(0.1)
    # Whoever ends a job asks all of its processes.
    keeper._courier._process.terminate()
    # As when the process dies: what holds the other end of the pipe is gone.
    keeper._courier.close()
    run = only_run(store)
    assert (run.info.status, run.data.metrics) == ("KILLED", {"loss": 2.0})
    assert said == []


def test_nobody_who_sends_is_left_behind_where_a_store_hangs(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"):
        program = "from training.tracking import sender; sender.LONGER = 0.5; sender.main()"
        command = [sys.executable, "-c", program, str(tmp_path)]
        # It waits for the lock as it would for a database.
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
            try:
                assert process.stdin is not None
                process.stdin.close()
                assert process.wait(60) == 1
            finally:
                process.kill()


def test_training_goes_on_where_nothing_can_be_started_that_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    said: list[str] = []
    with tracked(keeper := MLflow(tmp_path / "mlflow", ABOUT, None, said.append), {}):
        keeper.begin(0)
        keeper.tell("steps", 0, {"loss": 2.0})
    (sentence,) = said
    assert sentence.startswith("warning: MLflow is not told: no process can be started that sends (")


@pytest.mark.parametrize(
    ("error", "status"),
    [(StoppedError("by a signal", 15), "KILLED"), (KeyboardInterrupt(), "KILLED"), (ValueError("diverged"), "FAILED")],
)
def test_the_status_is_that_of_the_end(
    error: BaseException, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "Courier", lambda *_: Nobody())
    keeper = MLflow(tmp_path, ABOUT, None, print)
    keeper.begin(0)
    with pytest.raises(type(error)), tracked(keeper, {"folder": "here"}):
        raise error
    *_, (last, _) = Outbox(tmp_path).after(0)
    assert last["end"] == status
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["folder"], report["message"]) == ("here", str(error))


def test_a_run_that_did_not_begin_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another run"), tracked(MLflow(tmp_path / "mlflow", ABOUT, None, print), {}):
        raise ValueError("the folder holds another run")
    assert not (tmp_path / "mlflow").exists()


def test_a_full_disk_is_said_once_and_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(keeper_module, "Courier", lambda *_: Nobody())
    keeper = MLflow(tmp_path / "mlflow", ABOUT, None, said.append)
    keeper.begin(0)
    keeper._outbox.path = Path("/dev/full")
    keeper.tell("steps", 0, {"loss": 2.0})
    keeper.tell("steps", 20, {"loss": 1.0})
    keeper.end(None, {})
    assert len(said) == 2
    assert "No space left on device" in said[0]
    assert said[1].startswith("warning: 3 points could not be written")


class Nobody:
    """Sends nothing."""

    def close(self) -> None:
        pass
