"""Loading and unloading by request, while others ask."""

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests import bundles
from tests.service.conftest import serving

LOAD, UNLOAD = "/v2/repository/models/tiny/load", "/v2/repository/models/tiny/unload"
READY = "/v2/models/tiny/ready"
PIXELS = np.full((1, 3, bundles.SIZE, bundles.SIZE), 9, np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    bundles.publish(tmp_path, "tiny", bundles.Tiny.random(1))
    bundles.publish(tmp_path, "other")
    return tmp_path


@pytest.fixture
def client(root: Path) -> Iterator[httpx.Client]:
    with serving(root, history_url="") as client:
        yield client


def served(client: httpx.Client) -> str:
    """The version that answers, whose logits must be its own."""
    infer = {
        "parameters": {"binary_data_output": False},
        "inputs": [{"name": "images", "shape": PIXELS.shape, "datatype": "UINT8", "data": PIXELS.ravel().tolist()}],
    }
    response = client.post("/v2/models/tiny/infer", json=infer)
    assert response.status_code == 200, response.text
    version = str(response.json()["model_version"])
    expected = bundles.Tiny.random(int(version)).logits(PIXELS).ravel()
    np.testing.assert_allclose(response.json()["outputs"][0]["data"], expected, rtol=1e-4, atol=1e-4)
    return version


def states(client: httpx.Client) -> dict[str, tuple[str, str]]:
    entries = client.post("/v2/repository/index").json()
    return {entry["version"]: (entry["state"], entry["reason"]) for entry in entries if entry["name"] == "tiny"}


def failure(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    return str(response.json()["error"])


def test_a_newer_version_is_served_once_it_is_loaded(client: httpx.Client, root: Path) -> None:
    bundles.publish(root, "tiny", bundles.Tiny.random(2))
    assert served(client) == "1"
    for _ in range(2):
        answer = client.post(LOAD, content=b"{}")
        assert answer.json() == {"name": "tiny", "version": "2", "state": "READY", "reason": ""}
    assert served(client) == "2"
    assert states(client)["2"] == ("READY", "")
    assert states(client)["1"][0] == "UNAVAILABLE"


def test_a_version_that_was_named_before_is_not_loaded_twice(client: httpx.Client, root: Path) -> None:
    bundles.publish(root, "tiny", bundles.Tiny.random(2))
    assert client.get("/v2/models/tiny/versions/2/ready").status_code == 200
    seconds = client.get("/v1/models/tiny?version=2").json()["load_seconds"]
    assert client.post(LOAD).status_code == 200
    assert client.get("/v1/models/tiny").json()["load_seconds"] == seconds


def test_no_request_is_lost_while_versions_change(client: httpx.Client, root: Path) -> None:
    stop = threading.Event()

    def ask() -> list[str]:
        seen = []
        with httpx.Client(base_url=client.base_url, timeout=30) as own:
            while not stop.is_set():
                seen.append(served(own))
        return seen

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            for version in range(2, 7):
                bundles.publish(root, "tiny", bundles.Tiny.random(version))
                assert client.post(LOAD).json()["version"] == str(version)
                assert client.get("/v2/health/ready").status_code == 200
        finally:
            stop.set()
        for seen in (task.result() for task in asking):
            assert seen == sorted(seen)
            assert len(set(seen)) > 1
    assert served(client) == "6"


def test_a_version_that_does_not_load_changes_nothing(client: httpx.Client, root: Path) -> None:
    bundles.publish(root, "tiny", graph=b"broken")
    for _ in range(2):
        assert "version 2 cannot be served: the graph is not" in failure(client.post(LOAD), 503)
        assert served(client) == "1"
        assert states(client)["2"][0] == "UNAVAILABLE"
        assert "the graph is not" in states(client)["2"][1]


def test_a_version_that_was_mended_is_tried_again(client: httpx.Client, root: Path) -> None:
    bundles.publish(root, "tiny", graph=b"broken")
    failure(client.post(LOAD), 503)
    shutil.rmtree(root / "tiny" / "2")
    bundles.publish(root, "tiny", bundles.Tiny.random(2))
    assert client.post(LOAD).status_code == 200
    assert served(client) == "2"
    assert client.get("/v1/models").json()["failed"] == []


def test_taking_a_version_away_goes_back(client: httpx.Client, root: Path) -> None:
    bundles.publish(root, "tiny", bundles.Tiny.random(2))
    client.post(LOAD)
    shutil.rmtree(root / "tiny" / "2")
    assert served(client) == "2"
    client.post(LOAD)
    assert served(client) == "1"


def test_what_is_served_is_listed_when_its_files_are_gone(client: httpx.Client, root: Path) -> None:
    shutil.rmtree(root / "tiny" / "1")
    bundles.publish(root / "elsewhere", "tiny")
    shutil.copytree(root / "elsewhere" / "tiny" / "1", root / "tiny" / "3")
    assert states(client)["1"][0] == "READY"
    assert "its files are gone" in states(client)["1"][1]
    assert states(client)["3"][0] == "UNAVAILABLE"
    shutil.rmtree(root / "tiny")
    assert list(states(client)) == ["1"]
    versions = client.get("/v1/models/tiny").json()["versions"]
    assert [(version["version"], version["loaded"]) for version in versions] == [(1, True)]
    assert "its files are gone" in versions[0]["reason"]
    client.post(UNLOAD)
    assert states(client) == {}


def test_a_version_that_was_replaced_is_loaded_anew(client: httpx.Client, root: Path) -> None:
    shutil.rmtree(root / "tiny")
    bundles.publish(root, "tiny", bundles.Tiny.random(1), description="another")
    client.post(LOAD)
    assert client.get("/v1/models/tiny").json()["description"] == "another"


def test_a_served_version_whose_files_were_damaged_goes_on(client: httpx.Client, root: Path) -> None:
    (root / "tiny" / "1" / "model.onnx").write_bytes(b"cut short")
    assert "SHA-256" in failure(client.post(LOAD), 503)
    assert served(client) == "1"


def test_an_unloaded_model_is_gone_until_it_is_loaded(client: httpx.Client) -> None:
    client.get("/v2/models/tiny/versions/1/ready")
    for _ in range(2):
        answer = client.post(UNLOAD, json={"parameters": {"unload_dependents": False}})
        assert (answer.status_code, answer.content) == (200, b"")
    for path in (READY, "/v2/models/tiny", "/v2/models/tiny/versions/1/ready", "/v2/models/tiny/stats"):
        assert "was unloaded: load it with" in failure(client.get(path), 404)
    assert states(client)["1"][0] == "UNAVAILABLE"
    assert "was unloaded" in states(client)["1"][1]
    assert client.get("/v2/models").json() == {"models": ["other"]}
    assert client.get("/v2/health/ready").status_code == 200
    client.post(LOAD)
    assert served(client) == "1"


def test_what_is_good_of_an_unloaded_model_is_served_again(client: httpx.Client, root: Path) -> None:
    client.post(UNLOAD)
    bundles.publish(root, "tiny", graph=b"broken")
    failure(client.post(LOAD), 503)
    assert served(client) == "1"


def test_loads_and_unloads_at_the_same_time_leave_a_model_whole(client: httpx.Client) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(client.post, [LOAD, UNLOAD] * 10))
    assert {answer.status_code for answer in answers} == {200}
    assert client.post(LOAD).status_code == 200
    assert served(client) == "1"


@pytest.mark.parametrize("name", ["absent", "..", "%2e%2e", "..%2ftiny", "tiny%2f1"])
@pytest.mark.parametrize("change", ["load", "unload"])
def test_models_that_are_not_there(client: httpx.Client, name: str, change: str) -> None:
    failure(client.post(f"/v2/repository/models/{name}/{change}"), 404)


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[]", 400), (b'{"parameters": {"config": "{}"}}', 400), (bytes(5000), 413)],
)
def test_bad_load_requests(client: httpx.Client, body: bytes, status: int) -> None:
    failure(client.post(LOAD, content=body), status)


def test_control_can_be_refused(root: Path) -> None:
    with serving(root, history_url="", model_control="none") as client:
        for path in (LOAD, UNLOAD):
            assert "RESLENS_MODEL_CONTROL=explicit" in failure(client.post(path), 503)
        assert client.get(READY).status_code == 200
