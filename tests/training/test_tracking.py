"""What MLflow is told, read back by its own client."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tests.training.tracked import EXPERIMENT, empty_store, history, only_run, store
from training.commands.train import train
from training.outcomes import exit_code
from training.probes.probing import Probing
from training.recipes.recipe import Recipe
from training.tracking import courier, tracking
from training.tracking.delivery import Delivery
from training.tracking.limits import NAME, PARAMETER, flat, named, without_secrets
from training.tracking.outbox import Outbox, Sent, newest
from training.tracking.store import Store
from training.tracking.tracking import Tracking

__all__ = ["empty_store", "store"]
# MLflow uses what the newest SQLAlchemy and Flask call deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BEGIN = {"begin": 1, "name": "mine", "parameters": {"recipe.seed": "7"}, "tags": {"data": "digits"}}


def points(step: int, count: int = 2) -> dict[str, Any]:
    values = {f"gradient_rms/layer{index}.0.conv1": step + index / 8 for index in range(count)}
    return {"of": "probes", "step": step, "time": 1000 + step, "values": values}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "mlflow"
    Outbox(path).repair()
    (path / "key").write_text("k1")
    return path


def deliver(folder: Path, said: list[str] | None = None) -> Delivery:
    delivery = Delivery(folder, Store(), (said if said is not None else []).append)
    while delivery.next():
        pass
    return delivery


def fill(folder: Path, *lines: dict[str, Any]) -> None:
    for line in lines:
        Outbox(folder).add(line)


def test_what_is_larger_than_one_call_takes_arrives_whole(store: str, folder: Path) -> None:
    many = {f"recipe.option{index}": str(index) for index in range(230)}
    many["data.folders"] = "x" * (PARAMETER + 200)
    fill(folder, BEGIN | {"parameters": many}, points(0, 1100), points(1, 300), points(2, 300))
    run = deliver(folder).sent.run
    found = MlflowClient(store).get_run(run).data
    assert found.params | {"data.folders": ""} == many | {"data.folders": ""}
    assert found.params["data.folders"] == "x" * (PARAMETER - 1) + "…"
    kept = history(store, run)
    assert len(kept) == 1100
    assert kept["gradient_rms/layer299.0.conv1"] == [(step, step + 299 / 8) for step in range(3)]
    assert kept["gradient_rms/layer1099.0.conv1"] == [(0, 1099 / 8)]


def test_a_run_goes_on_and_nothing_is_there_twice(store: str, folder: Path) -> None:
    fill(folder, BEGIN, points(0), points(20), {"tags": {"warning.dead": "step 21: 60% are dead"}})
    first = deliver(folder)
    first.killed(Outbox(folder).size)
    client = MlflowClient(store)
    assert client.get_run(first.sent.run).info.status == "KILLED"
    # The answer to the last call never came, and not even the name of the run was kept.
    Sent().write(folder)
    fill(folder, BEGIN | {"parameters": {"recipe.seed": "8", "recipe.epochs": "2"}}, points(40))
    second = deliver(folder)
    assert second.sent.run == first.sent.run
    assert client.get_run(second.sent.run).info.status == "RUNNING"
    fill(folder, {"end": "FAILED", "time": 5000, "artifacts": []})
    deliver(folder).killed(Outbox(folder).size)
    run = client.get_run(second.sent.run)
    assert (run.info.status, run.info.end_time) == ("FAILED", 5000)
    assert run.info.run_name == "mine"
    # What a parameter is cannot be changed in MLflow.
    assert run.data.params == {"recipe.seed": "7", "recipe.epochs": "2"}
    assert run.data.tags["warning.dead"] == "step 21: 60% are dead"
    assert history(store, run.info.run_id)["gradient_rms/layer1.0.conv1"] == [(s, s + 1 / 8) for s in (0, 20, 40)]


def test_a_deleted_run_is_told_again_from_its_beginning(store: str, folder: Path) -> None:
    fill(folder, BEGIN, points(0))
    first = deliver(folder).sent.run
    MlflowClient(store).delete_run(first)
    fill(folder, BEGIN, points(20))
    said: list[str] = []
    second = deliver(folder, said).sent.run
    assert second != first
    assert said == [f"MLflow has the run {first} no more: all of it is sent to another one, {second}"]
    assert history(store, second)["gradient_rms/layer0.0.conv1"] == [(0, 0.0), (20, 20.0)]


def test_what_the_store_refuses_is_named_as_lost(store: str, folder: Path) -> None:
    wrong = points(20) | {"values": {"": 1.0}}
    fill(folder, BEGIN, wrong, {"tags": {}}, points(40))
    said: list[str] = []
    delivery = deliver(folder, said)
    (sentence,) = said
    assert sentence.startswith("MLflow refuses 1 points of the steps 20 to 20, which are lost: ")
    assert delivery.sent.lost == 1
    assert history(store, delivery.sent.run)["gradient_rms/layer0.0.conv1"] == [(40, 40.0)]


def test_files_that_cannot_be_kept_are_named_and_the_run_ends(store: str, folder: Path, tmp_path: Path) -> None:
    (folder / "record.json").write_text("{}")
    # In the way of the folder of artifacts.
    (tmp_path / "artifacts").write_text("")
    fill(folder, BEGIN, {"end": "FINISHED", "time": 1, "artifacts": [str(folder / "record.json"), "nowhere.json"]})
    said: list[str] = []
    run = deliver(folder, said).sent.run
    (sentence,) = said
    assert sentence.startswith("MLflow does not keep record.json (")
    assert MlflowClient(store).get_run(run).info.status == "FINISHED"


def test_the_experiment_is_that_of_the_environment(store: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "depth")
    fill(folder, BEGIN)
    run = MlflowClient(store).get_run(deliver(folder).sent.run)
    experiment = MlflowClient(store).get_experiment_by_name("depth")
    assert experiment is not None
    assert run.info.experiment_id == experiment.experiment_id


def test_a_line_that_is_half_there_is_cut_off(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.add(points(0))
    outbox.add(points(20))
    outbox.path.write_bytes(outbox.path.read_bytes()[:-10])
    assert [line["step"] for line, _ in outbox.after(0)] == [0]
    outbox.repair()
    outbox.add(points(40))
    lines = [line for line, _ in outbox.after(0)]
    assert [line["step"] for line in lines] == [0, 40]
    assert newest([*lines, points(20)]) == {"probes": 40}
    assert outbox.waiting(0) == 4
    assert [line["step"] for line, _ in outbox.after(0, end=outbox.size - 1)] == [0]


def test_names_and_values_are_such_as_every_store_takes() -> None:
    nested = {"recipe": {"seed": 0, "freeze": (), "milestones": (0.5, 0.75), "pretrained": None, "extra": {"a": 1.5}}}
    assert flat(nested) == {"recipe.seed": "0", "recipe.milestones": "0.5 0.75", "recipe.extra.a": "1.5"}
    assert named("learned/act1.α[0]") == "learned/act1.__0_"
    assert len(named("x" * 999)) == NAME
    assert without_secrets("to postgresql://me:secret@host/db and http://host/x@y") == (
        "to postgresql://…@host/db and http://host/x@y"
    )


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:p@ss@host:5000/x", "http://…@host:5000/x"),
        ("postgresql://me:sec/ret@host/db", "postgresql://…@host/db"),
        ("postgresql://host/db?user=me&password=secret&sslmode=require", "…/db?user=me&password=…&sslmode=require"),
        ("http://token@host", "http://…@host"),
    ],
)
def test_no_password_is_shown_or_taken_from_the_command_line(address: str, shown: str) -> None:
    found = without_secrets(f"{address} tests")
    assert found.endswith(f"{shown.removeprefix('…')} tests")
    assert "secret" not in found
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_PASSWORD"):
        Tracking(mlflow=(address,))
    with pytest.raises(ValueError, match="give one address") as raised:
        Tracking(mlflow=(address, "http://other"))
    assert shown.removeprefix("…") in str(raised.value)


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="give one address"):
        Tracking(mlflow=("http://a", "http://b"))
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_PASSWORD"):
        Tracking(mlflow=("http://me:secret@host",))
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'reslens\[mlflow\]'") as raised:
        Tracking(mlflow=())
    assert exit_code(raised.value) == 2
    Tracking()


def test_a_run_of_the_command_is_in_mlflow(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "PATIENCE", 120.0)
    probing, saying = Probing(probe_every=10), Tracking(mlflow=())
    train(recipe=Recipe(epochs=1), run=tmp_path / "mine", device="cpu", probing=probing, tracking=saying)
    run = only_run(store)
    assert f"MLflow has it as run {run.info.run_id} in {store} {EXPERIMENT}" in capsys.readouterr().out
    assert (run.info.status, run.info.run_name) == ("FINISHED", "mine")
    assert run.data.params["network.network"] == "resnet8"
    assert (run.data.params["recipe.learning_rate"], run.data.params["data.data"]) == ("0.1", "digits")
    assert run.data.tags["data_digest"] == json.loads((tmp_path / "mine" / "run.json").read_text())["data_digest"]
    assert not [name for name in run.data.tags if "git" in name]
    record = json.loads((tmp_path / "mine" / "record.json").read_text())
    kept = history(store, run.info.run_id)
    assert kept["held_out_accuracy"] == [(22, record["held_out"]["accuracy"])]
    assert kept["epoch_loss"] == [(22, record["history"][0]["loss"])]
    assert [step for step, _ in kept["loss"]] == [0, 20]
    lines = [json.loads(line) for line in (tmp_path / "mine" / "probes.jsonl").read_text().splitlines()]
    name = lines[0]["weights"][0]
    assert kept[f"gradient_rms/{name}"] == [(line["step"], line["gradient_rms"][0]) for line in lines]
    files = {file.path for file in MlflowClient(store).list_artifacts(run.info.run_id)}
    assert files == {"run.json", "record.json", "probes.jsonl", "report.json"}
