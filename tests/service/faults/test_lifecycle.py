"""Versions that come, go and break under a process that serves, and its end whatever it is about to do."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests import bundles
from tests.service.conftest import eventually, png
from tests.service.faults.slow import Slow
from tests.service.operated import Operated, operated
from tests.service.processes import ROOT

PIXELS = np.random.default_rng(5).integers(0, 256, (1, 3, bundles.SIZE, bundles.SIZE), dtype=np.uint8)
IMAGE = png(PIXELS[0])
READY = "/v2/health/ready"
ENDED = (0, -signal.SIGTERM)
FAST_END = {"ANNOUNCE_SECONDS": 0, "DRAIN_SECONDS": 30, "MAX_BATCH": 8}
STRAYS = ("one", "01", "007", "-1", "1.0", "+3", "٣", ".staging-3", "3 ", "0", "latest", "99999999999999999999999999")
LINKED = {"model": "", "version": "1", "graph": "1/model.onnx", "manifest": "1/manifest.json"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for each test, so that one process serves them all; and those that lead elsewhere."""
    root, elsewhere = tmp_path_factory.mktemp("shelf"), tmp_path_factory.mktemp("elsewhere")
    for name in ("replaced", "kept", "strays", "changing", "deleted", "truncated", "altered"):
        bundles.publish(root, name, bundles.Tiny.random(1))
    for name in (*STRAYS, "3"):  # the last could be a version, and is empty
        (root / "strays" / name).mkdir()
    for name, place in LINKED.items():
        bundles.publish(elsewhere, name)
        if place:
            shutil.copytree(elsewhere / name, root / name)
        moved = root / name / place
        if moved.is_dir():
            shutil.rmtree(moved)
        elif place:
            moved.unlink()
        moved.symlink_to(elsewhere / name / place)
    return root


@pytest.fixture(scope="module")
def service(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    with operated(shelf, tmp_path_factory.mktemp("log") / "log", MAX_BATCH=8) as service:
        yield service
        assert service.process.poll() is None


def load(service: Operated, name: str) -> httpx.Response:
    return service.client.post(f"/v2/repository/models/{name}/load", timeout=60)


def version(service: Operated, name: str) -> int:
    """The version that answers, with the probabilities that are its own."""
    response = service.client.post(f"/v1/models/{name}/classify", content=IMAGE, timeout=60)
    assert response.status_code == 200, response.text
    answer = response.json()
    ranked = sorted(answer["images"][0]["classes"], key=lambda entry: entry["index"])
    expected = bundles.Tiny.random(answer["version"]).probabilities(PIXELS)[0]
    np.testing.assert_allclose([entry["probability"] for entry in ranked], expected, atol=1e-5)
    return int(answer["version"])


def states(service: Operated, name: str) -> dict[str, tuple[str, str]]:
    entries = service.client.post("/v2/repository/index").json()
    return {entry["version"]: (entry["state"], entry["reason"]) for entry in entries if entry["name"] == name}


class Callers:
    """Threads that ask for one model all the time, until they are told to stop."""

    def __init__(self, service: Operated, name: str, count: int = 4) -> None:
        self._service = service
        self._name = name
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._futures = [self._pool.submit(self._ask) for _ in range(count)]

    def _ask(self) -> list[int]:
        versions = [version(self._service, self._name)]
        while not self._stopping.is_set():
            versions.append(version(self._service, self._name))
        return versions

    def versions(self) -> set[int]:
        """Those that answered; raises what any of them met."""
        self._stopping.set()
        self._pool.shutdown()
        return {number for future in self._futures for number in future.result()}


def test_the_old_version_answers_while_the_new_one_loads(service: Operated, shelf: Path) -> None:
    assert version(service, "replaced") == 1
    bundles.publish(shelf, "replaced", graph=Slow(bundles.Tiny.random(2), layers=2).content())
    callers = Callers(service, "replaced")
    started = time.monotonic()
    assert load(service, "replaced").status_code == 200
    assert time.monotonic() - started > 0.2, "it was no slow load"
    assert version(service, "replaced") == 2
    assert callers.versions() == {1, 2}


def test_a_reload_that_fails_changes_nothing(service: Operated, shelf: Path) -> None:
    callers = Callers(service, "kept")
    bundles.publish(shelf, "kept", graph=b"broken")
    for _ in range(3):  # it is not served at any retry
        answer = load(service, "kept")
        assert answer.status_code == 503
        assert "not an ONNX model" in answer.json()["error"]
        assert version(service, "kept") == 1
    assert callers.versions() == {1}
    first, second = states(service, "kept").values()
    assert (first[0], second[0]) == ("READY", "UNAVAILABLE")
    assert "not an ONNX model" in second[1]


def test_directories_that_are_no_versions_are_passed_over(service: Operated) -> None:
    assert version(service, "strays") == 1
    found = states(service, "strays")
    assert set(found) <= {"1", "3"}
    assert found["1"][0] == "READY"
    load(service, "strays")
    assert version(service, "strays") == 1


@pytest.mark.parametrize("damage", ["deleted", "truncated", "altered"])
def test_files_that_break_under_load_break_no_answer(service: Operated, shelf: Path, damage: str) -> None:
    callers = Callers(service, damage)
    graph = shelf / damage / "1" / "model.onnx"
    if damage == "deleted":
        graph.unlink()
    elif damage == "truncated":
        os.truncate(graph, 100)
    else:
        graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    assert load(service, damage).status_code == 503
    assert version(service, damage) == 1
    assert callers.versions() == {1}


def test_loads_and_unloads_of_one_model_at_once(service: Operated) -> None:
    def change(number: int) -> int:
        action = "unload" if number % 3 == 2 else "load"
        return service.client.post(f"/v2/repository/models/changing/{action}").status_code

    def ask(_: int) -> int:
        return service.client.post("/v1/models/changing/classify", content=IMAGE).status_code

    with ThreadPoolExecutor(8) as pool:
        changes, answers = pool.map(change, range(30)), pool.map(ask, range(100))
        assert set(changes) == {200}
        assert set(answers) <= {200, 404}
    assert load(service, "changing").status_code == 200
    assert version(service, "changing") == 1
    assert "Traceback" not in service.log.read_text()


@pytest.mark.parametrize("name", LINKED)
def test_links_lead_nowhere(service: Operated, name: str) -> None:
    assert load(service, name).status_code in (404, 503)
    for path in (f"/v2/models/{name}/infer", f"/v1/models/{name}/classify"):
        assert service.client.post(path, content=IMAGE).status_code in (404, 503), path
    assert "READY" not in {state for state, _ in states(service, name).values()}
    assert version(service, "changing") == 1


# The end


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shelf whose model takes a second for a batch, and as long to load."""
    root = tmp_path_factory.mktemp("slow")
    bundles.publish(root, "tiny", graph=Slow(bundles.Tiny.random(1), layers=3).content())
    return root


@pytest.mark.parametrize("after", [0.5, 1.5])
def test_sigterm_while_it_starts_and_loads(slow: Path, tmp_path: Path, after: float) -> None:
    settings = {"MODEL_REPOSITORY": slow, "PORT": 0, "PROVIDER": "cpu", "THREADS": 1, "WORKERS": 0, "HISTORY_URL": ""}
    environment = os.environ | {f"RESLENS_{name}": str(value) for name, value in settings.items()}
    with (tmp_path / "log").open("w+") as log:
        command = [sys.executable, "-m", "service"]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as process:
            time.sleep(after)
            process.terminate()
            try:
                code = process.wait(20)
            finally:
                process.kill()
        assert code in (*ENDED, 3), (tmp_path / "log").read_text()


def test_sigterm_while_a_newer_version_loads(slow: Path, tmp_path: Path) -> None:
    root = tmp_path / "shelf"
    bundles.publish(root, "tiny", bundles.Tiny.random(1))
    with operated(root, tmp_path / "log", **FAST_END) as service, ThreadPoolExecutor(1) as pool:
        bundles.publish(root, "tiny", graph=(slow / "tiny" / "1" / "model.onnx").read_bytes())
        loading = pool.submit(load, service, "tiny")
        time.sleep(0.2)
        assert service.stopped() in ENDED
        assert loading.result().status_code in (200, 503)
        assert "Traceback" not in service.log.read_text()


@pytest.fixture
def busy(slow: Path, tmp_path: Path) -> Iterator[Operated]:
    """A process with one thread for inference."""
    with operated(slow, tmp_path / "log", CONCURRENCY=1, **FAST_END) as service:
        yield service


def infer(service: Operated, images: int) -> httpx.Response:
    pixels = np.repeat(PIXELS, images, axis=0)
    given = {"name": "images", "shape": pixels.shape, "datatype": "UINT8", "data": pixels.ravel().tolist()}
    with httpx.Client(base_url=service.url, timeout=60) as client:
        return client.post("/v2/models/tiny/infer", json={"inputs": [given]})


def answered(response: httpx.Response, images: int) -> None:
    assert response.status_code == 200, response.text
    (output,) = response.json()["outputs"]
    expected = np.repeat(bundles.Tiny.random(1).logits(PIXELS), images, axis=0)
    np.testing.assert_allclose(np.reshape(output["data"], (images, -1)), expected, rtol=1e-4, atol=1e-4)


def in_flight(service: Operated, count: int) -> bool:
    return f"reslens_requests_in_flight {count + 1}.0" in service.client.get("/metrics").text


def test_sigterm_while_it_computes_and_connections_are_kept(busy: Operated) -> None:
    base = busy.client.base_url
    address = (base.host, base.port or 80)
    with (
        socket.create_connection(address, timeout=30) as silent,
        socket.create_connection(address, timeout=30) as kept,
        ThreadPoolExecutor(1) as pool,
    ):
        kept.sendall(f"GET {READY} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"}"):
            answer += kept.recv(65536)
        request = pool.submit(infer, busy, 8)
        eventually(lambda: in_flight(busy, 1))
        assert busy.stopped() in ENDED  # within half a minute
        answered(request.result(), 8)
        assert (silent.recv(1), kept.recv(1)) == (b"", b"")
    assert "Traceback" not in busy.log.read_text()


def test_sigterm_while_requests_queue(busy: Operated) -> None:
    with ThreadPoolExecutor(8) as pool:
        requests = [pool.submit(infer, busy, 1 + number % 3) for number in range(8)]
        eventually(lambda: in_flight(busy, 8))
        assert busy.stopped() in ENDED
        for number, request in enumerate(requests):
            answered(request.result(), 1 + number % 3)
