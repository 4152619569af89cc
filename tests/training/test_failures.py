"""What goes wrong in training: each a clear error of its own, and nothing of before is lost."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.conftest import ROOT
from tests.training.small import SilentBar, problem
from training.__main__ import main
from training.commands.report import reported
from training.data.sources import DataConfig
from training.loop.checkpoint import Saving, load_checkpoint, save_checkpoint
from training.loop.divergence import first_not_finite
from training.loop.trainer import Trainer
from training.loop.watch import Moment, Watch
from training.outcomes import DivergedError, LostProcessError, StoppedError, UnwritableError, exit_code
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig
from training.run import Run, RunConfig

CPU = torch.device("cpu")
NETWORK = NetworkConfig("resnet8", "relu", classes=3, channels=1)
RECIPE = Recipe(epochs=3, batch_size=16)


class Poison(Watch):
    """Puts a number that is none where it is told to."""

    def __init__(self, step: int, name: str) -> None:
        self.step, self.name = step, name

    def after_step(self, moment: Moment) -> None:
        if moment.step == self.step:
            moment.model.get_parameter(self.name).data.view(-1)[0] = torch.nan


def test_a_loss_that_is_no_number_names_step_layer_and_last_state(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    run = Trainer(NETWORK, RECIPE, problem(), CPU)
    run.watches.append(Poison(4, "network.layer2.0.conv1.weight"))
    with pytest.raises(DivergedError) as caught:
        run.train(path, SilentBar())
    assert str(caught.value) == (
        "the loss is nan at step 6, in epoch 2; it began in network.layer2.0.conv1.weight, whose values are not finite "
        f"any more; the last good state is {path}: lower learning_rate=0.1 in another --run"
    )
    stored = load_checkpoint(path)
    assert stored["epoch"] == 1
    assert all(torch.isfinite(each).all() for each in stored["model"].values())


def test_weights_that_are_no_numbers_while_the_loss_is_one_end_the_run(tmp_path: Path) -> None:
    # Batch normalisation makes any scale fine in training; running variances of such a scale have overflowed.
    recipe = replace(RECIPE, initialiser="gaussian", initialiser_parameters={"std": 1e30})
    with pytest.raises(DivergedError, match=r"at step 3, in epoch 1, and .* network.bn1.running_var, .*none was saved"):
        Trainer(NETWORK, recipe, problem(), CPU).train(tmp_path / "checkpoint.pt", SilentBar())


def test_weights_that_are_no_numbers_never_take_the_place_of_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    run = Trainer(NETWORK, RECIPE, problem(), CPU)
    run.saving = Saving(checkpoint_steps=1)
    run.watches.append(Poison(4, "network.layer2.0.conv1.weight"))
    with pytest.raises(DivergedError, match=r"at step 5, in epoch 2, .*layer2.0.conv1.weight.*the last good state is "):
        run.train(path, SilentBar())
    assert load_checkpoint(path)["within"]["done"] == 1
    assert all(torch.isfinite(each).all() for each in load_checkpoint(path)["model"].values())


class Negative(Watch):
    """Leaves a variance that evaluation cannot take the root of."""

    def after_step(self, moment: Moment) -> None:
        moment.model.get_buffer("network.bn1.running_var").fill_(-1.0)


def test_a_loss_that_is_no_number_only_in_evaluation_ends_the_run(tmp_path: Path) -> None:
    run = Trainer(NETWORK, replace(RECIPE, averaging="none"), problem(), CPU)
    run.watches.append(Negative())
    with pytest.raises(DivergedError, match=r"the held-out loss is nan after epoch 1, .*none was saved before"):
        run.train(tmp_path / "checkpoint.pt", SilentBar())


def test_where_numbers_ceased_in_the_forward_pass() -> None:
    model = Trainer(NETWORK, RECIPE, problem(), CPU).model.eval()
    # Finite, and its products are not.
    model.network.get_parameter("layer2.0.conv1.weight").data.fill_(3e38)
    images = torch.from_numpy(problem().training.pixels[:4]).float()
    assert first_not_finite(model, images) == "network.layer2.0.conv1, which gave it out"
    assert not any(module._forward_hooks for module in model.modules()), "hooks are taken off"


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """The system itself refuses files of more than `room` bytes, as it does when a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    run = Trainer(NETWORK, replace(RECIPE, epochs=1), problem(), CPU)
    run.train(path, SilentBar())
    before = path.read_bytes()
    again = Trainer(NETWORK, RECIPE, problem(), CPU)
    with (
        full_disk(len(before) // 2),
        pytest.raises(UnwritableError, match=r"checkpoint .* cannot be written \(.*\): make room, .*--resume; the one"),
    ):
        again.train(path, SilentBar())
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"], "nothing half-written is left"


@pytest.mark.parametrize(
    ("network", "recipe", "message"),
    [
        (replace(NETWORK, activation="elu"), RECIPE, "network.activation was 'relu', now 'elu'"),
        (replace(NETWORK, network="resnet14"), RECIPE, "network.network was 'resnet8', now 'resnet14'"),
        (NETWORK, replace(RECIPE, optimiser="adamw"), "recipe.optimiser was 'sgd', now 'adamw'"),
        (NETWORK, replace(RECIPE, learning_rate=0.2), "recipe.learning_rate was 0.1, now 0.2"),
    ],
)
def test_a_checkpoint_of_another_network_or_recipe_is_refused(
    network: NetworkConfig, recipe: Recipe, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, Trainer(NETWORK, RECIPE, problem(), CPU).state())
    other = Trainer(network, recipe, problem(), CPU)
    before = {name: each.clone() for name, each in other.model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        other.restore(path)
    assert all(torch.equal(each, before[name]) for name, each in other.model.state_dict().items())


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, Trainer(NETWORK, RECIPE, problem(), CPU).state())
    with pytest.raises(ValueError, match=r"is of another run \(data_digest was '[0-9a-f]{64}', now '"):
        Trainer(NETWORK, RECIPE, problem(held_out=21), CPU).restore(path)


def test_a_checkpoint_with_other_weights_names_them(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    state = Trainer(NETWORK, RECIPE, problem(), CPU).state()
    state["model"] = {f"{name}x": each for name, each in state["model"].items()}
    save_checkpoint(path, state)
    with pytest.raises(ValueError, match=r"has other weights \(mean was None, now \(1, 1, 1\); .* and \d+ more\)"):
        Trainer(NETWORK, RECIPE, problem(), CPU).restore(path)


def test_exit_codes_differ() -> None:
    errors = [
        ValueError(),
        DivergedError(),
        UnwritableError(),
        LostProcessError(),
        StoppedError("", signal.SIGINT),
        StoppedError("", signal.SIGTERM),
        RuntimeError(),
    ]
    assert [exit_code(error) for error in errors] == [2, 3, 4, 5, 130, 143, 1]


def test_a_report_is_written_however_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:

    def fail() -> None:
        with reported(tmp_path / "report.json") as report:
            report["folder"] = "runs/x"
            raise DivergedError("no number")

    with pytest.raises(DivergedError):
        fail()
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "outcome": "diverged",
        "exit_code": 3,
        "message": "no number",
        "folder": "runs/x",
    }
    with reported(Path("-")):
        print("for people")
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"outcome": "done", "exit_code": 0}
    assert printed.err == "for people\n"


def test_sigterm_saves_and_ends_with_its_own_code(tmp_path: Path) -> None:
    """A real process of the command."""
    command = [sys.executable, "-m", "training", "train", "--epochs", "3", "--batch-size", "512", "--threads", "1"]
    command += ["--device", "cpu", "--run", str(tmp_path / "run"), "--resume", "--json", str(tmp_path / "report.json")]
    with subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("epoch 1/3")
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
    assert process.returncode == 143
    assert "stopped after step " in said
    assert said.endswith("the state is saved, go on with --resume\n")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["outcome"], report["exit_code"], report["folder"]) == ("stopped", 143, str(tmp_path / "run"))
    stored = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert stored["epoch"] == 1
    assert stored["within"]["done"] >= 1


@pytest.mark.parametrize(
    ("options", "said"), [(["--recipe", "fast"], "unknown recipe 'fast'"), (["--epochs", "x"], "not understood")]
)
def test_a_refused_command_line_is_reported_and_no_report_of_before_is_left(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deeper" / "report.json"
    path.parent.mkdir()
    path.write_text('{"outcome": "done"}')
    monkeypatch.setattr(sys, "argv", ["training", "train", *options, "--json", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    report = json.loads(path.read_text())
    assert (report["outcome"], report["exit_code"]) == ("mistake", 2)
    assert said in report["message"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--epochs", "-1"], "epochs=-1 is not allowed: use at least 1"),
        (["--checkpoint-steps", "-1"], "checkpoint_steps=-1 is not allowed: use 0 or more"),
    ],
)
def test_a_value_that_a_configuration_refuses_is_one_line_and_the_same_in_the_report(
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["training", "train", *options, "--json", "-"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.err == f"error: {said}\n"
    assert json.loads(printed.out) == {"outcome": "mistake", "exit_code": 2, "message": said}
    # What the parser itself does not understand it explains; a report that cannot be written is said too.
    (tmp_path / "file").touch()
    monkeypatch.setattr(
        sys, "argv", ["training", "train", "--epochs", "x", "--json", str(tmp_path / "file" / "r.json")]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "invalid literal for int()" in said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: report ")


def test_a_report_takes_away_no_device_pipe_or_link(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "kept.json").write_text("kept")
    (tmp_path / "link").symlink_to("kept.json")
    for name in ("pipe", "link"):
        with pytest.raises(ValueError, match="something that is no file"), reported(tmp_path / name):
            raise AssertionError("the work must not begin")
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "kept.json", "link"}
    assert (tmp_path / "link").is_symlink()


def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match=r"report .* cannot be written \(.*\): choose another file"),
        reported(tmp_path / "file" / "report.json"),
    ):
        raise AssertionError("the work must not begin")


def test_sigterm_where_there_is_nothing_to_save_is_reported(tmp_path: Path) -> None:
    def ended() -> None:
        with reported(tmp_path / "report.json"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt) as caught:
        ended()
    assert exit_code(caught.value) == 143
    assert json.loads((tmp_path / "report.json").read_text())["exit_code"] == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_folder_that_cannot_be_written_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = Run(tmp_path / "file" / "run", RunConfig(NETWORK, DataConfig(), RECIPE))
    with pytest.raises(UnwritableError, match=r"run cannot be made \(Not a directory\)"):
        run.prepare(False, "digest")
    whole = Run(tmp_path / "run", RunConfig(NETWORK, DataConfig(), RECIPE))
    with full_disk(10), pytest.raises(UnwritableError, match=r"run.json cannot be written \(.*\): make room"):
        whole.prepare(False, "digest")
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_impossible_intervals_of_checkpoints(value: float) -> None:
    with pytest.raises(ValueError, match=r"checkpoint_seconds=.* is not allowed"):
        Saving(checkpoint_seconds=value)
