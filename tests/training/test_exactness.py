"""Killed at any moment and resumed, training ends with the same bytes."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import ROOT
from tests.training.killed import STEPS, WAYS, trainer
from tests.training.small import SilentBar
from training.loop.checkpoint import load_checkpoint, previous
from training.outcomes import StoppedError


def flat(state: Any, path: str = "") -> dict[str, Any]:
    """Everything in a state by its path, but for how long it took."""
    if isinstance(state, dict):
        parts = {name: each for name, each in state.items() if name != "seconds"}
    elif isinstance(state, list | tuple):
        parts = dict(enumerate(state))
    else:
        return {path: state}
    return {key: value for name, each in parts.items() for key, value in flat(each, f"{path}.{name}").items()}


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    one, other = flat(first), flat(second)
    assert set(one) == set(other)
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name


@pytest.fixture(scope="module")
def deaths() -> dict[str, tuple[int, int]]:
    """Of each way the step in which the process dies, and the steps between checkpoints."""
    draw = random.Random()
    intervals = {way: draw.randrange(1, 4) for way in WAYS}
    # Not before there is a checkpoint.
    return {way: (draw.randrange(max(2, every), STEPS), every) for way, every in intervals.items()}


@pytest.fixture(scope="module")
def killed(deaths: dict[str, tuple[int, int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    wanted = [f"{way}:{step}:{every}" for way, (step, every) in deaths.items()]
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.killed", str(folder), *wanted]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, timeout=300)
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_killed_in_a_random_step_and_resumed_gives_the_same_bytes(
    way: str, killed: Path, deaths: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    step, every = deaths[way]
    stored = load_checkpoint(killed / f"{way}.pt")
    done = stored["epoch"] * 4 + (stored["within"] or {"done": 0})["done"]
    assert done == max(each for each in range(step + 1) if each % 4 == 0 or (each % 4) % every == 0), (step, every)
    # What another process drew does not matter.
    torch.rand(5)
    resumed = trainer(way, every)
    resumed.restore(killed / f"{way}.pt")
    resumed.train(killed / f"{way}.pt", SilentBar())
    whole = trainer(way)
    whole.train(tmp_path / "whole.pt", SilentBar())
    assert_same(load_checkpoint(killed / f"{way}.pt"), load_checkpoint(tmp_path / "whole.pt"))
    assert resumed.history == whole.history


def test_stopped_after_every_step_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "part.pt"
    for count in range(1, STEPS + 1):
        part = trainer("sgd")
        if path.exists():
            part.restore(path)
        part.stop.signal = 15
        with pytest.raises(StoppedError, match=rf"stopped after step {(count - 1) % 4 + 1} of 4 of epoch"):
            part.train(path, SilentBar())
    part = trainer("sgd")
    part.restore(path)
    part.train(path, SilentBar())
    whole = trainer("sgd")
    whole.train(tmp_path / "whole.pt", SilentBar())
    assert_same(load_checkpoint(path), load_checkpoint(tmp_path / "whole.pt"))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "part.pt"
    part = trainer("sgd", every=1)
    part.train(path, SilentBar())
    assert {each.name for each in tmp_path.iterdir()} == {"part.pt", "part.previous.pt"}, "no more are kept"
    whole = load_checkpoint(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    resumed = trainer("sgd", every=1)
    assert "going on from part.previous.pt, which was written before it" in resumed.restore(path)
    assert resumed.epoch == 2
    resumed.train(path, SilentBar())
    assert_same(load_checkpoint(path), whole)
    for each in (path, previous(path)):
        each.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        trainer("sgd").restore(path)
