"""What the tests of training/ share: everything here may use PyTorch."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

ROOT = Path(__file__).parents[2]

torch.set_num_threads(1)

Once = Callable[[str, Callable[[Path], None]], Path]


def command(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run `python -m training …` in `folder`, as a user does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "training", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Once:
    """Make a folder once for all test processes: `once(name, fill)`."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder = shared / name
        with FileLock(f"{folder}.lock"):
            if not (folder / "complete").exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                (folder / "complete").touch()
        return folder

    return make


@pytest.fixture(scope="session")
def default_home(once: Once) -> Path:
    """Where `python -m training train`, with no option, was run; what it printed is in `output`."""

    def fill(folder: Path) -> None:
        done = command("train", folder=folder)
        assert done.returncode == 0, done.stderr
        (folder / "output").write_text(done.stdout)
        (folder / "errors").write_text(done.stderr)

    return once("default-run", fill)


@pytest.fixture(scope="session")
def default_run(default_home: Path) -> Path:
    """The folder of the default run."""
    return default_home / "runs" / "digits-resnet8-relu-original"


@pytest.fixture(scope="session")
def shelf(once: Once, default_run: Path) -> Path:
    """A repository with the default run published as `digits` by the command line; what it printed is in `output`."""

    def fill(folder: Path) -> None:
        arguments = ("publish", str(default_run), "--name", "digits", "--repository", str(folder / "shelf"))
        done = command(*arguments, folder=folder)
        assert done.returncode == 0, done.stderr
        (folder / "output").write_text(done.stdout)
        (folder / "errors").write_text(done.stderr)

    return once("default-shelf", fill) / "shelf"
