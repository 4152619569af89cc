"""Labels, policies, pins and rollbacks: over REST, from the command line, and over a restart."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.__main__ import main
from tests import bundles
from tests.service.conftest import png, serving

BLACK = png(np.zeros((3, bundles.SIZE, bundles.SIZE), np.uint8))
LOAD = "/v2/repository/models/tiny/load"
LABELS = "/v1/models/tiny/labels"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (1, 2, 3):
        bundles.publish(tmp_path, "tiny", bundles.Tiny.random(seed))
    return tmp_path


@pytest.fixture
def client(root: Path) -> Iterator[httpx.Client]:
    with serving(root, history_url="") as client:
        yield client


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service of which nothing is asked that changes it."""
    root = tmp_path_factory.mktemp("steady")
    bundles.publish(root, "tiny", bundles.Tiny.random(1))
    with serving(root, history_url="") as client:
        yield client


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A repository in which nothing can be written, seen without the rights of root."""
    user = os.geteuid()
    # Not pytest's own, which only its owner may enter.
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        for seed in (1, 2):
            bundles.publish(root, "tiny", bundles.Tiny.random(seed))
        (root / "tiny").chmod(0o555)
        if user == 0:
            "here".encode("idna")  # what that imports need not be readable by others
            os.seteuid(65534)
        try:
            yield root
        finally:
            os.seteuid(user)
            (root / "tiny").chmod(0o755)


def classified(client: httpx.Client, query: str = "") -> int:
    response = client.post(f"/v1/models/tiny/classify{query}", content=BLACK)
    assert response.status_code == 200, response.text
    return int(response.json()["version"])


def ready(client: httpx.Client) -> list[str]:
    return [entry["version"] for entry in client.post("/v2/repository/index", json={"ready": True}).json()]


def failure(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    return str(response.json()["error"])


def test_a_label_is_loaded_and_can_be_named_everywhere(client: httpx.Client, root: Path) -> None:
    assert ready(client) == ["3"]
    assert client.put(f"{LABELS}/canary", json={"version": 1}).json()["labels"] == {"canary": 1}
    assert ready(client) == ["1", "3"]
    assert classified(client, "?label=canary") == 1
    assert classified(client) == 3
    form = client.post("/v1/models/tiny/classify", files={"file": BLACK}, data={"label": "canary"})
    assert form.json()["version"] == 1
    pixels = np.zeros((1, 3, bundles.SIZE, bundles.SIZE))
    images = {"name": "images", "shape": pixels.shape, "datatype": "FP32", "data": pixels.ravel().tolist()}
    answer = client.post("/v2/models/tiny/versions/canary/infer", json={"inputs": [images]})
    assert answer.json()["model_version"] == "1"
    assert client.get("/v2/models/tiny/versions/canary/ready").status_code == 200
    assert client.get("/v1/models/tiny?label=canary").json()["version"] == 1
    assert client.get("/v1/models/tiny").json()["labels"] == {"canary": 1}
    assert client.get("/v1/models/tiny/statistics?label=canary").json()["version"] == 1
    assert client.get("/v1/models/tiny/diagnosis?label=canary").json()["version"] == 1
    with serving(root, history_url="") as another:
        assert ready(another) == ["1", "3"]


def test_a_label_moves_and_goes(client: httpx.Client) -> None:
    for version in (1, 2):
        client.put(f"{LABELS}/stable", json={"version": version})
    assert ready(client) == ["2", "3"]
    for _ in range(2):
        assert client.delete(f"{LABELS}/stable").status_code == 204
    assert ready(client) == ["3"]
    message = failure(client.post("/v1/models/tiny/classify?label=stable", content=BLACK), 404)
    assert message == "model 'tiny' has no version 'stable'; choose from 1, 2, 3"


@pytest.mark.parametrize(
    ("label", "body", "status"),
    [
        ("Canary", {"version": 1}, 422),
        ("7", {"version": 1}, 422),
        ("a" * 33, {"version": 1}, 422),
        ("canary", {}, 400),
        ("canary", {"version": 0}, 400),
        ("canary", {"version": "x"}, 400),
        ("canary", {"version": 1, "more": 1}, 400),
        ("canary", {"version": 9}, 404),
        ("canary", {"version": 1, "share": -1}, 400),
        ("canary", {"version": 1, "share": 101}, 400),
        ("canary", {"version": 1, "share": "NaN"}, 400),
    ],
)
def test_labels_that_cannot_be(steady: httpx.Client, label: str, body: dict[str, object], status: int) -> None:
    failure(steady.put(f"{LABELS}/{label}", json=body), status)
    assert steady.get(LABELS).json() == {"labels": {}, "shares": {}, "withheld": []}


def test_labels_are_limited(client: httpx.Client, root: Path) -> None:
    labels = {f"l{number}": 3 for number in range(64)}
    (root / "tiny" / "serving.json").write_text(json.dumps({"labels": labels}))
    client.post(LOAD)
    assert "at most 64 labels" in failure(client.put(f"{LABELS}/one-more", json={"version": 3}), 400)


def test_a_version_that_does_not_load_gets_no_label(client: httpx.Client, root: Path) -> None:
    client.put(f"{LABELS}/canary", json={"version": 1})
    bundles.publish(root, "tiny", graph=b"broken")
    assert "the graph is not" in failure(client.put(f"{LABELS}/canary", json={"version": 4}), 503)
    assert classified(client, "?label=canary") == 1
    assert json.loads((root / "tiny" / "serving.json").read_text()) == {"labels": {"canary": 1}}


def test_a_version_and_a_label_exclude_each_other(client: httpx.Client) -> None:
    client.put(f"{LABELS}/canary", json={"version": 1})
    for path in ("/v1/models/tiny", "/v1/models/tiny/statistics"):
        assert "exclude each other" in failure(client.get(f"{path}?version=1&label=canary"), 400)
    response = client.post("/v1/models/tiny/classify?version=1&label=canary", content=BLACK)
    assert "exclude each other" in failure(response, 400)


def test_labels_of_models_that_are_not_there_or_unloaded(client: httpx.Client) -> None:
    failure(client.put("/v1/models/absent/labels/canary", json={"version": 1}), 404)
    failure(client.get("/v1/models/absent/labels"), 404)
    client.post("/v2/repository/models/tiny/unload")
    assert "was unloaded" in failure(client.put(f"{LABELS}/canary", json={"version": 1}), 404)


def test_a_pinned_version_holds_until_the_next_load(client: httpx.Client, root: Path) -> None:
    for version in (2, "1"):
        answer = client.post(LOAD, json={"parameters": {"version": version}})
        assert answer.json() == {"name": "tiny", "version": str(version), "state": "READY", "reason": ""}
        assert classified(client) == int(version)
    with serving(root, history_url="") as another:
        assert classified(another) == 1
    assert client.post(LOAD).json()["version"] == "3"
    assert classified(client) == 3
    with serving(root, history_url="") as another:
        assert classified(another) == 3


@pytest.mark.parametrize("version", [0, -1, "x", "01", "²", True, 1.5, [1], "1" * 10])
def test_versions_that_are_none_are_refused(steady: httpx.Client, version: object) -> None:
    assert "is no version" in failure(steady.post(LOAD, json={"parameters": {"version": version}}), 400)


def test_a_version_that_is_not_there_is_not_pinned(client: httpx.Client) -> None:
    failure(client.post(LOAD, json={"parameters": {"version": 9}}), 404)
    assert classified(client) == 3


def test_rollback_goes_back_step_by_step(client: httpx.Client, root: Path) -> None:
    for version in (1, 2):
        client.post(LOAD, json={"parameters": {"version": version}})
    # What was served was 3, then 1, then 2.
    seen = [client.post("/v1/models/tiny/rollback").json()["version"] for _ in range(2)]
    assert seen == [1, 3]
    assert classified(client) == 3
    with serving(root, history_url="") as another:
        assert classified(another) == 3


def test_rollback_without_a_past_goes_to_the_version_before(client: httpx.Client) -> None:
    for expected in (2, 1):
        assert client.post("/v1/models/tiny/rollback").json() == {"name": "tiny", "version": expected}
        assert classified(client) == expected
    assert "no version before 1" in failure(client.post("/v1/models/tiny/rollback"), 409)


def test_a_rollback_to_a_version_that_is_broken_changes_nothing(client: httpx.Client, root: Path) -> None:
    (root / "tiny" / "2" / "model.onnx").write_bytes(b"cut short")
    assert "SHA-256" in failure(client.post("/v1/models/tiny/rollback"), 503)
    assert classified(client) == 3
    assert not (root / "tiny" / "serving.json").exists()


def test_what_cannot_be_kept_is_not_done(client: httpx.Client, root: Path) -> None:
    (root / "tiny" / "serving.json").mkdir()
    for response in (
        client.put(f"{LABELS}/canary", json={"version": 1}),
        client.post("/v1/models/tiny/rollback"),
    ):
        assert "is not an ordinary file" in failure(response, 409)
    pin = client.post(LOAD, json={"parameters": {"version": 1}})
    assert "is not an ordinary file" in failure(pin, 409)
    assert (classified(client), ready(client)) == (3, ["3"])


def test_a_repository_that_cannot_be_written_serves_and_loads(read_only: Path) -> None:
    with serving(read_only, history_url="") as client:
        for response in (
            client.put(f"{LABELS}/canary", json={"version": 1}),
            client.post("/v1/models/tiny/rollback"),
            client.post(LOAD, json={"parameters": {"version": 1}}),
        ):
            assert "cannot keep what is chosen" in failure(response, 503)
        assert client.post(LOAD).json()["version"] == "2"
        assert (classified(client), ready(client)) == (2, ["2"])


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"latest": 2}, ["2", "3"]),
        ({"versions": [1, 2]}, ["1", "2"]),
        ({"versions": [2, 7]}, ["2"]),
        ({"all": True}, ["1", "2", "3"]),
    ],
)
def test_a_policy_says_which_versions_are_ready(root: Path, policy: dict[str, object], expected: list[str]) -> None:
    (root / "tiny" / "policy.json").write_text(json.dumps(policy))
    with serving(root, history_url="") as client:
        assert ready(client) == expected
        assert classified(client) == int(expected[-1])


def test_a_broken_version_is_no_version_of_a_policy(root: Path) -> None:
    (root / "tiny" / "2" / "model.onnx").write_bytes(b"cut short")
    with serving(root, history_url="", version_policies={"*": {"latest": 2}}) as client:
        assert ready(client) == ["1", "3"]


def test_the_settings_of_a_model_win_over_its_folder(root: Path) -> None:
    bundles.publish(root, "other")
    bundles.publish(root, "other")
    (root / "tiny" / "policy.json").write_text('{"latest": 3}')
    policies = {"tiny": {"versions": [1]}, "*": {"all": True}}
    with serving(root, history_url="", version_policies=policies) as client:
        entries = client.post("/v2/repository/index", json={"ready": True}).json()
        found = [(entry["name"], entry["version"]) for entry in entries]
        assert found == [("other", "1"), ("other", "2"), ("tiny", "1")]


def test_a_broken_policy_is_reported_and_the_one_before_holds(root: Path) -> None:
    policy = root / "tiny" / "policy.json"
    policy.write_text('{"latest": 2}')
    with serving(root, history_url="") as client:
        policy.write_text('{"latest": 1, "all": true}')
        assert client.post(LOAD).status_code == 200
        assert ready(client) == ["2", "3"]
        (entry,) = (entry for entry in client.post("/v2/repository/index").json() if entry["version"] == "")
        assert entry["state"] == "UNAVAILABLE"
        assert "policy.json is not valid" in entry["reason"]
        policy.write_text('{"latest": 1}')
        client.post(LOAD)
        assert ready(client) == ["3"]
        assert client.get("/v1/models").json()["failed"] == []


def test_a_model_of_whose_policy_nothing_is_there_says_so(root: Path) -> None:
    (root / "tiny" / "policy.json").write_text('{"versions": [8]}')
    with serving(root, history_url="") as client:
        assert "policy names" in failure(client.get("/v2/models/tiny/ready"), 503)
        assert "policy names" in failure(client.post(LOAD), 409)
        assert classified(client, "?version=2") == 2


def test_a_broken_choice_is_reported_and_never_overwritten(root: Path) -> None:
    (root / "tiny" / "serving.json").write_text("{")
    with serving(root, history_url="") as client:
        assert classified(client) == 3
        assert "serving.json is not valid" in failure(client.post("/v1/models/tiny/rollback"), 409)
        assert "serving.json is not valid" in failure(client.put(f"{LABELS}/canary", json={"version": 1}), 409)
        bundles.publish(root, "tiny", bundles.Tiny.random(4))
        assert client.post(LOAD).json()["version"] == "4"
        reasons = [failed["reason"] for failed in client.get("/v1/models").json()["failed"]]
        assert len(reasons) == 1
        assert "serving.json is not valid" in reasons[0]
    assert (root / "tiny" / "serving.json").read_text() == "{"


def test_control_needs_to_be_allowed(root: Path) -> None:
    with serving(root, history_url="", model_control="none") as client:
        for response in (
            client.put(f"{LABELS}/canary", json={"version": 1}),
            client.delete(f"{LABELS}/canary"),
            client.post("/v1/models/tiny/rollback"),
            client.put("/v1/models/tiny/withheld/1"),
            client.delete("/v1/models/tiny/withheld/1"),
        ):
            assert "not allowed" in failure(response, 503)


def test_the_command_line_labels_and_rolls_back(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = ["--repository", str(root)]
    assert main(["label", "tiny", "stable", "2", *repository]) == 0
    assert main(["rollback", "tiny", *repository]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "stable is version 2 of tiny",
        "tiny is served in version 2 until a service is told to load another one by its number",
    ]
    with serving(root, history_url="") as client:
        assert (classified(client), classified(client, "?label=stable")) == (2, 2)
    assert main(["label", "tiny", "stable", *repository]) == 0
    assert json.loads((root / "tiny" / "serving.json").read_text()) == {"default": 2, "withheld": [3]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label", "tiny", "stable", "9"], "has no version 9"),
        (["label", "absent", "stable", "1"], "unknown model"),
        (["label", "tiny", "Stable", "1"], "label 'Stable' is not allowed"),
        (["rollback", "absent"], "unknown model"),
    ],
)
def test_commands_that_cannot_be(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*arguments, "--repository", str(root)]) == 2
    assert message in capsys.readouterr().err
