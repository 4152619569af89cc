"""Versions that end the process that loads them: the service, and all else that it serves, outlive them."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests import bundles
from tests.service.conftest import eventually
from tests.service.operated import Operated, operated

# Imported by every Python process at its start: whoever opens the file to load it ends, as in a fault of native code.
HOOK = """
import os
import sys

def end(event, arguments):
    if event == "open" and str(arguments[0]).endswith({file!r}):
        os.abort()

sys.addaudithook(end)
"""
READY, LOAD = "/v2/models/tiny/versions/{}/ready", "/v2/repository/models/tiny/load"


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Makes a repository of so many versions, of which the second ends processes."""

    def make(versions: int) -> Path:
        for seed in range(1, versions + 1):
            bundles.publish(tmp_path / "shelf", "tiny", bundles.Tiny.random(seed))
        hook = tmp_path / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(HOOK.format(file="tiny/2/model.onnx"))
        monkeypatch.setenv("PYTHONPATH", str(hook))
        return tmp_path / "shelf"

    return make


def joined(service: Operated) -> list[str]:
    """The process ids of all workers there ever were."""
    found = (re.fullmatch(r"worker \d+ is process (\d+)", line["message"]) for line in service.lines())
    return [match[1] for match in found if match]


def fallen(service: Operated) -> int:
    """How many workers were ended by a signal so far."""
    return sum("ended with -6" in line["message"] for line in service.lines())


def ask(service: Operated, method: str, path: str) -> httpx.Response | None:
    """The answer on a connection of its own; None where that ended."""
    try:
        return httpx.request(method, service.url + path, timeout=30)
    except httpx.TransportError:
        return None


def reason(service: Operated) -> str:
    answer = ask(service, "POST", "/v2/repository/index")
    assert answer is not None
    return next(str(entry["reason"]) for entry in answer.json() if entry["version"] == "2")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_version_that_ends_processes_ends_one(deadly: Callable[[int], Path], workers: int, tmp_path: Path) -> None:
    root = deadly(1)
    settings = {"WORKERS": workers, "MODEL_CONTROL": "poll", "POLL_SECONDS": 0.2, "LOG_FORMAT": "json"}
    with operated(root, tmp_path / "log", **settings) as service:
        bundles.publish(root, "tiny", bundles.Tiny.random(2))
        eventually(lambda: fallen(service) == 1 and len(joined(service)) == workers + 1)
        assert "the process that loaded it ended" in reason(service)
        for _ in range(5):  # by requests, and by looks in the meantime
            answer = ask(service, "GET", READY.format(2))
            assert answer is not None
            assert (answer.status_code, "process that loaded it ended" in answer.text) == (503, True)
            answer = ask(service, "GET", READY.format(1))
            assert answer is not None
            assert answer.status_code == 200
        label = httpx.put(f"{service.url}/v1/models/tiny/labels/canary", json={"version": 2})
        assert (label.status_code, "process that loaded it ended" in label.text) == (503, True)
        assert (fallen(service), len(joined(service))) == (1, workers + 1)
        # Whoever asks for it by name gets it tried again.
        ask(service, "POST", LOAD)
        eventually(lambda: fallen(service) == 2 and len(joined(service)) == workers + 2)
        answer = ask(service, "GET", "/v2/models/tiny/ready")
        assert answer is not None
        assert answer.status_code == 200


def test_a_service_starts_beside_a_version_that_ends_processes(deadly: Callable[[int], Path], tmp_path: Path) -> None:
    with operated(deadly(2), tmp_path / "log", WORKERS=1, LOG_FORMAT="json") as service:
        eventually(lambda: len(joined(service)) == 2)
        answer = ask(service, "GET", "/v2/models/tiny")
        assert answer is not None
        assert answer.json()["versions"] == ["1"]
        assert fallen(service) == 1
        assert service.stopped() == 0
