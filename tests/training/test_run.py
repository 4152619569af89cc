"""Training runs on disk and from the command line: finished, interrupted, resumed, refused."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.manifest import TrainingRecord
from tests.training.conftest import ROOT
from tests.training.small import problem
from training.__main__ import main
from training.activations.exponentials import EluActivation
from training.commands.train import choose_device
from training.data import digits, sources
from training.data.sources import DataConfig
from training.loop.checkpoint import load_checkpoint
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig
from training.run import Run, RunConfig, digest

CPU = torch.device("cpu")
NETWORK = NetworkConfig("resnet8", "relu", "original", classes=3, channels=1)
CONFIG = RunConfig(NETWORK, DataConfig(), Recipe(epochs=2, batch_size=16))


class TestDefault:
    """`python -m training train`, with no option."""

    def test_learns_the_digits(self, default_home: Path) -> None:
        printed = (default_home / "output").read_text()
        found = re.search(r"held-out accuracy ([0-9.]+)% on 360 images", printed)
        assert found, printed
        assert float(found[1]) >= 97
        assert printed.count("held-out loss") == Recipe().epochs, "one line for every epoch"
        assert (default_home / "errors").read_text() == ""

    def test_says_how_to_go_on(self, default_home: Path, default_run: Path) -> None:
        printed = (default_home / "output").read_text()
        assert f"python -m training publish {default_run.relative_to(default_home)} --name" in printed

    def test_leaves_a_record(self, default_run: Path) -> None:
        left = {path.name for path in default_run.iterdir()}
        assert left == {"run.json", "checkpoint.pt", "record.json", "probes.jsonl"}
        stored = json.loads((default_run / "record.json").read_text())
        record = TrainingRecord.model_validate({name: stored[name] for name in TrainingRecord.model_fields})
        assert (record.network, record.activation, record.arrangement) == ("resnet8", "relu", "original")
        # He 2015, section 4.2, one block a stage: weights, two numbers a norm, and the linear layer.
        convolutions = 9 * (16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
        norms = 2 * (16 + 2 * (16 + 32 + 64))
        assert record.parameters == convolutions + norms + 64 * 10 + 10
        assert record.training_images == 1437
        assert record.epochs == Recipe().epochs
        assert record.seed == 0
        assert record.seconds > 0
        assert record.versions["torch"] == torch.__version__
        assert record.options["learning_rate"] == Recipe().learning_rate
        assert [entry["epoch"] for entry in stored["history"]] == list(range(1, record.epochs + 1))
        assert stored["held_out"]["images"] == 360
        assert stored["held_out"]["accuracy"] == stored["history"][-1]["held_out_accuracy"]

    def test_stores_what_was_asked_for_and_the_data_it_saw(self, default_run: Path) -> None:
        stored = json.loads((default_run / "run.json").read_text())
        data = digits.load()
        seen = "\0".join(data.class_names).encode()
        seen += b"".join(split.labels.tobytes() + split.pixels.tobytes() for split in (data.training, data.held_out))
        assert stored["data_digest"] == hashlib.sha256(seen).hexdigest()
        assert RunConfig.read(default_run) == RunConfig(
            NetworkConfig("resnet8", "relu", "original", classes=10, channels=1), DataConfig(), Recipe()
        )


def test_killed_and_resumed_gives_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch, in a process of its own; compared with one run in this process."""
    config = RunConfig(
        NetworkConfig("resnet8", "mish", "full_preactivation", classes=10, channels=1),
        DataConfig(),
        Recipe(epochs=4, batch_size=128, seed=3),
    )
    arguments = "train --network resnet8 --activation mish --arrangement full_preactivation --epochs 4 --batch-size 128"
    command = [sys.executable, "-m", "training", *arguments.split(), "--seed", "3", "--threads", "1", "--resume"]
    command += ["--device", "cpu", "--run", str(tmp_path / "killed")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = Run(tmp_path / "killed", config)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = time.monotonic()
        for line in process.stdout:
            if line.startswith("epoch 1/4"):
                started = time.monotonic()
            if line.startswith("epoch 2/4"):
                # Into the middle of the third epoch.
                time.sleep((time.monotonic() - started) / 2)
                break
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not killed.record.exists()
    assert load_checkpoint(killed.checkpoint)["epoch"] == 2

    resumed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 3/4" in resumed.stdout
    assert "epoch 2/4" not in resumed.stdout, "finished epochs are not done again"

    whole = Run(tmp_path / "whole", config)
    whole.train(digits.load(), CPU, resume=False)
    expected, actual = load_checkpoint(whole.checkpoint), load_checkpoint(killed.checkpoint)
    for part in ("model", "averaged"):
        assert set(actual[part]) == set(expected[part])
        assert [name for name in expected[part] if not torch.equal(actual[part][name], expected[part][name])] == []
    assert actual["history"] == expected["history"]
    momentum = [
        [entry["momentum_buffer"] for entry in state["optimiser"]["state"].values()] for state in (actual, expected)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*momentum, strict=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("finished"), CONFIG)
    run.train(problem(), CPU, resume=True)
    return run


def test_a_finished_run_is_not_trained_again(finished: Run) -> None:
    before = finished.checkpoint.read_bytes()
    trainer = finished.train(problem(), CPU, resume=True)
    assert trainer.epoch == 2
    assert finished.checkpoint.read_bytes() == before


def test_a_folder_in_use_is_only_resumed_when_asked(finished: Run) -> None:
    with pytest.raises(ValueError, match=f"{finished.folder} already holds a run: use --resume"):
        finished.train(problem(), CPU, resume=False)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(CONFIG, recipe=replace(CONFIG.recipe, seed=1)), "recipe.seed was 0, now 1"),
        (replace(CONFIG, recipe=replace(CONFIG.recipe, epochs=3)), "recipe.epochs was 2, now 3"),
        (replace(CONFIG, network=replace(NETWORK, activation="elu")), "network.activation was 'relu', now 'elu'"),
    ],
)
def test_a_different_run_is_not_resumed(finished: Run, config: RunConfig, message: str) -> None:
    before = finished.checkpoint.read_bytes()
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Run(finished.folder, config).train(problem(), CPU, resume=True)
    assert str(caught.value).count(" was ") == 1 + str(caught.value).count("as it was"), "only what differs is named"
    assert finished.checkpoint.read_bytes() == before


ELU = replace(CONFIG, network=replace(NETWORK, activation="elu", activation_parameters={"alpha": 0.5}))


def test_parameters_of_the_activation_are_stored_and_built_and_recorded(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", ELU)
    trainer = run.train(problem(), CPU, resume=False)
    assert RunConfig.read(run.folder) == ELU
    assert {module.alpha for module in trainer.model.modules() if isinstance(module, EluActivation)} == {0.5}
    record = json.loads(run.record.read_text())
    assert (record["activation"], record["activation_parameters"]) == ("elu", {"alpha": 0.5})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": 0.25}, "network.activation_parameters.alpha was 0.5, now 0.25"),
        ({}, "network.activation_parameters.alpha was 0.5, now None"),
    ],
)
def test_a_run_is_not_resumed_with_other_parameters_of_the_activation(
    parameters: dict[str, float], message: str, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", replace(ELU, recipe=replace(ELU.recipe, epochs=1)))
    run.train(problem(), CPU, resume=False)
    before = run.checkpoint.read_bytes()
    other = replace(run.config, network=replace(run.config.network, activation_parameters=parameters))
    with pytest.raises(ValueError, match=f"holds another run .*{re.escape(message)}"):
        Run(run.folder, other).train(problem(), CPU, resume=True)
    assert run.checkpoint.read_bytes() == before


def test_parameters_of_the_activation_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sources.SOURCES, "digits", lambda *_: problem())
    options = "--activation elu --activation-parameters alpha 0.5 --epochs 1"
    monkeypatch.setattr(sys, "argv", ["training", "train", *options.split()])
    main()
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name == "digits-resnet8-elu-alpha0.5-original"
    assert RunConfig.read(run).network == replace(ELU.network, classes=3)


def test_shortcut_normaliser_and_initialiser_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sources.SOURCES, "digits", lambda *_: problem())
    options = (
        "--shortcut exclusive_gating --shortcut-parameters bias -7 --normaliser none --learning-rate 0.01 "
        "--initialiser orthogonal --initialiser-parameters gain 1.25 --epochs 1"
    )
    monkeypatch.setattr(sys, "argv", ["training", "train", *options.split()])
    main()
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name == "digits-resnet8-relu-original-exclusive_gating-bias-7-none-orthogonal-gain1.25"
    config = RunConfig.read(run)
    assert (config.network.shortcut, config.network.shortcut_parameters) == ("exclusive_gating", {"bias": -7})
    assert config.network.normaliser == "none"
    record = json.loads((run / "record.json").read_text())
    wanted = {
        "shortcut": "exclusive_gating",
        "shortcut.bias": -7,
        "normaliser": "none",
        "initialiser": "orthogonal",
        "initialiser.gain": 1.25,
    }
    assert wanted.items() <= record["options"].items()


def test_runs_from_before_shortcuts_and_initialisers_had_names_are_read(finished: Run, tmp_path: Path) -> None:
    stored = json.loads((finished.folder / "run.json").read_text())
    for key in ("shortcut", "shortcut_parameters", "normaliser", "head", "regularisers"):
        del stored["network"][key]
    for key in ("initialiser", "initialiser_parameters", "pretrained", "mixup_alpha", "cutmix_alpha"):
        del stored["recipe"][key]
    (tmp_path / "run.json").write_text(json.dumps(stored))
    assert RunConfig.read(tmp_path) == CONFIG


def test_a_run_is_not_resumed_on_other_images(finished: Run) -> None:
    other = problem()
    other.training.pixels[7, 0, 3, 3] ^= 1
    with pytest.raises(ValueError, match="data_digest was"):
        finished.train(other, CPU, resume=True)


def test_digest_depends_on_every_pixel_and_label() -> None:
    first = digest(problem())
    assert digest(problem()) == first
    for change in ("pixels", "labels"):
        changed = problem()
        getattr(changed.training, change).reshape(-1)[-1] += 1
        assert digest(changed) != first


def test_a_network_that_cannot_be_built_leaves_no_run_behind(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="unknown network 'resnet19'"):
        Run(folder, replace(CONFIG, network=replace(NETWORK, network="resnet19"))).train(problem(), CPU, resume=False)
    assert not folder.exists()


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path} holds no run"):
        RunConfig.read(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--network", "resnet19"],
            "unknown network 'resnet19' (19 layers are not 6n + 2); choose from resnet8",
        ),
        (["train", "--activation", "gleu"], "unknown activation 'gleu'; choose from"),
        (["train", "--activation-parameters", "alpha", "1"], "unknown parameter alpha of activation relu; it has no"),
        (["train", "--activation", "elu", "--activation-parameters", "alpha", "0"], "alpha=0.0 of elu is not allowed"),
        (["train", "--initialiser", "magic"], "unknown initialiser 'magic'; choose from he"),
        (["train", "--initialiser", "pretrained"], "initialiser 'pretrained' needs a file of weights"),
        (["train", "--shortcut", "none", "--normaliser", "fixup"], "choose a shortcut, or normaliser"),
        (["train", "--data", "folder"], "data 'folder' needs --data-dir"),
        (["train", "--data", "folder", "--data-dir", "nowhere"], "nowhere does not exist: give a folder"),
        (["train", "--image-size", "64"], "--image-size 64 needs --data folder"),
        (["train", "--data", "folder", "--data-dir", ".", "--image-size", "0"], "--image-size 0 is not allowed"),
        (["train", "--warmup-epochs", "inf"], "warmup_epochs=inf is not allowed"),
        (["train", "--seed", "99999999999999999999999"], "seed=99999999999999999999999 is not allowed"),
        (["train", "--run", "/proc/x"], "/proc/x"),
        (["train", "--epochs", "0"], "epochs=0 is not allowed: use at least 1"),
        (["train", "--threads", "0"], "threads=0 is not allowed: use at least 1"),
        (["publish", "nowhere", "--name", "x"], "nowhere holds no run"),
    ],
)
def test_a_users_mistake_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["training", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    printed = capsys.readouterr()
    assert stopped.value.code not in (0, None)
    assert message in re.sub(r"\s*│?\n?│?\s+", " ", printed.err)
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device whose absence is tested")
def test_cuda_is_not_silently_replaced() -> None:
    with pytest.raises(ValueError, match="device 'cuda' was asked for, but PyTorch finds no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto") == CPU
