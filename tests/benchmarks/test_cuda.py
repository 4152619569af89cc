"""The benchmark of GPUs measures every arm, and says so where it cannot."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cuda import PLAIN, cuda
from benchmarks.networks import Case
from service.errors import StartupError
from service.runtime.provider import choose_provider
from training.resnet.network import NetworkConfig

ROOT = Path(__file__).parents[2]


def works() -> bool:
    try:
        choose_provider("cuda")
    except StartupError:
        return False
    return True


@pytest.mark.skipif(works(), reason="CUDA works here")
def test_it_refuses_where_there_is_no_gpu() -> None:
    command = [sys.executable, "-m", "benchmarks", "cuda"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "error: CUDA was asked for and does not work here" in done.stderr
    assert done.stdout == ""


@pytest.mark.gpu
def test_every_arm_is_measured() -> None:
    rows = cuda([Case(NetworkConfig("resnet8", "relu"), 32, (1, 3), rounds=5)])
    arms = [row["arm"] for row in rows if row["batch"] == "1"]
    assert len(rows) == 2 * len(arms) == 2 * len(set(arms))
    by_arm = {row["arm"]: row for row in rows}
    for row in rows:
        assert float(row["ms"]) > 0
    for arm in (PLAIN, f"{PLAIN}, again", "bound memory, no graphs"):
        assert by_arm[arm]["largest difference"] == "none"
    assert 0 < float(by_arm["half precision"]["largest difference"]) < 0.02
