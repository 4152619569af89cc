"""What the benchmark of the whole service is made of, on a tiny model."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.generator import Generator
from benchmarks.requests import requests
from benchmarks.server import Server, running
from models.repository import Bundle, ModelRepository
from tests import bundles

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root)
    return ModelRepository(root).open("tiny")


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Server]:
    with running(bundle.path.parents[1], PROVIDER="cpu", WORKERS=0, THREADS=1) as server:
        yield server


def test_a_service_is_found_ready_and_weighed(server: Server) -> None:
    resident, shared_once = server.memory()
    assert 20 < shared_once <= resident < 2000
    assert 0.1 < server.ready_seconds < 60


@pytest.mark.parametrize("with_wrk", [True, False])
@pytest.mark.parametrize("kind", ["V2 binary", "V2 JSON", "JPEG", "JPEG, layers"])
def test_every_kind_of_request_is_answered(
    server: Server, bundle: Bundle, kind: str, with_wrk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if with_wrk and not shutil.which("wrk"):
        pytest.skip("wrk is not installed")
    if not with_wrk:
        monkeypatch.setattr(shutil, "which", lambda _: None)
    load = Generator(server.port, requests(bundle.manifest)[kind], 2, 0.3, tmp_path)
    assert load() > 1
    (measured,) = load.measured
    assert 1e-5 < measured.p50 <= measured.p99 < 5


def test_other_answers_are_no_figures(server: Server, bundle: Bundle, tmp_path: Path) -> None:
    wrong = requests(bundle.manifest.model_copy(update={"name": "unknown"}))["V2 JSON"]
    with pytest.raises((RuntimeError, subprocess.CalledProcessError)):
        Generator(server.port, wrong, 2, 0.3, tmp_path)()


def test_bare_runs_are_those_of_all_processes(bundle: Bundle) -> None:
    def rate(processes: int) -> float:
        command = [sys.executable, "-m", "benchmarks.bare", str(bundle.path / "model.onnx"), str(processes), "0.3"]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60, cwd=ROOT)
        return float(json.loads(run.stdout)["per_second"])

    assert rate(2) > 100
