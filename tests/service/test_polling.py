"""A service that follows its repository: what appears, changes, breaks and goes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.__main__ import main
from tests import bundles
from tests.service.conftest import eventually, serving


@pytest.fixture
def root(tmp_path: Path) -> Path:
    bundles.publish(tmp_path, "tiny", bundles.Tiny.random(1))
    return tmp_path


@pytest.fixture
def client(root: Path) -> Iterator[httpx.Client]:
    with serving(root, history_url="", model_control="poll", poll_seconds=0.1) as client:
        yield client


def index(client: httpx.Client) -> dict[tuple[str, str], tuple[str, str]]:
    entries = client.post("/v2/repository/index").json()
    return {(entry["name"], entry["version"]): (entry["state"], entry["reason"]) for entry in entries}


def default(client: httpx.Client) -> object:
    return client.get("/v1/models/tiny").json().get("version")


def reason(client: httpx.Client, version: str) -> str:
    return index(client).get(("tiny", version), ("", ""))[1]


def test_what_appears_and_goes_is_followed(client: httpx.Client, root: Path) -> None:
    bundles.publish(root, "tiny", bundles.Tiny.random(2))
    bundles.publish(root, "other")
    eventually(lambda: default(client) == 2)
    eventually(lambda: client.get("/v2/models").json() == {"models": ["other", "tiny"]})
    shutil.rmtree(root / "tiny" / "2")
    shutil.rmtree(root / "other")
    eventually(lambda: default(client) == 1)
    eventually(lambda: client.get("/v2/models").json() == {"models": ["tiny"]})
    assert client.get("/v2/models/other/ready").status_code == 404


def test_a_broken_version_is_tried_again_when_its_files_change(client: httpx.Client, root: Path) -> None:
    bundles.publish(root, "tiny", graph=b"broken")
    eventually(lambda: "the graph is not" in reason(client, "2"))
    assert default(client) == 1
    bundles.publish(root.parent / "mended", "tiny", bundles.Tiny.random(2))
    shutil.rmtree(root / "tiny" / "2")
    shutil.copytree(root.parent / "mended" / "tiny" / "1", root / "tiny" / "2")
    manifest = root / "tiny" / "2" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    eventually(lambda: default(client) == 2)
    assert reason(client, "2") == ""


def test_a_version_that_is_copied_in_slowly_is_served_once_it_is_whole(client: httpx.Client, root: Path) -> None:
    """Not published by a rename, as it should be, but by somebody's `cp`."""
    elsewhere = root.parent / "elsewhere"
    bundles.publish(elsewhere, "tiny")
    bundles.publish(elsewhere, "tiny", bundles.Tiny.random(2))
    target = root / "tiny" / "2"
    target.mkdir()
    eventually(lambda: "manifest.json is missing" in reason(client, "2"))
    shutil.copy(elsewhere / "tiny" / "2" / "manifest.json", target)
    eventually(lambda: "model.onnx is missing" in reason(client, "2"))
    (target / "model.onnx").write_bytes(b"half of it")
    eventually(lambda: "SHA-256" in reason(client, "2"))
    assert default(client) == 1
    shutil.copy(elsewhere / "tiny" / "2" / "model.onnx", target)
    eventually(lambda: default(client) == 2)


def test_directories_that_are_no_versions_are_left_alone(client: httpx.Client, root: Path) -> None:
    for name in ("02", "0", "-3", "two", "2.0", "٣", "1e3", ".staging-x"):
        shutil.copytree(root / "tiny" / "1", root / "tiny" / name)
    (root / "tiny" / "4").symlink_to(root / "tiny" / "1")
    (root / "linked").symlink_to(root / "tiny")
    (root / "tiny" / "notes.txt").write_text("no version either")
    (root / "empty").mkdir()
    bundles.publish(root, "last")
    eventually(lambda: ("last", "1") in index(client))
    assert set(index(client)) == {("tiny", "1"), ("last", "1")}
    for name in ("02", "0", "two", "4", "%2e%2e", "..%2f1"):
        assert client.get(f"/v2/models/tiny/versions/{name}/ready").status_code == 404


@pytest.mark.parametrize("damage", ["truncated", "deleted", "linked"])
def test_a_served_version_whose_files_are_damaged_goes_on(client: httpx.Client, root: Path, damage: str) -> None:
    graph = root / "tiny" / "1" / "model.onnx"
    content = graph.read_bytes()
    if damage == "truncated":
        graph.write_bytes(content[:100])
    else:
        graph.unlink()
    if damage == "linked":
        (root / "elsewhere").write_bytes(content)
        graph.symlink_to(root / "elsewhere")
    eventually(lambda: reason(client, "1"))
    assert index(client)["tiny", "1"][0] == "READY"
    assert client.get("/v2/models/tiny/ready").status_code == 200
    graph.unlink(missing_ok=True)
    graph.write_bytes(content)
    eventually(lambda: reason(client, "1") == "")


@pytest.mark.parametrize(("left", "problem"), [("nothing", "is not a directory"), ("mount point", "no model any more")])
def test_a_repository_that_is_gone_for_a_while_ends_nothing(
    client: httpx.Client, root: Path, left: str, problem: str
) -> None:
    root.rename(root.parent / "unmounted")
    if left == "mount point":
        root.mkdir()
    eventually(lambda: problem in client.get("/v1/models").json()["repository_problem"])
    assert client.get("/v2/models/tiny/ready").status_code == 200
    if left == "mount point":
        root.rmdir()
    (root.parent / "unmounted").rename(root)
    bundles.publish(root, "tiny", bundles.Tiny.random(2))
    eventually(lambda: default(client) == 2)


def test_what_is_chosen_beside_the_service_is_followed(client: httpx.Client, root: Path) -> None:
    bundles.publish(root, "tiny", bundles.Tiny.random(2))
    eventually(lambda: default(client) == 2)
    main(["label", "tiny", "stable", "1", "--repository", str(root)])
    eventually(lambda: client.get("/v2/models/tiny/versions/stable/ready").status_code == 200)
    main(["rollback", "tiny", "--repository", str(root)])
    eventually(lambda: default(client) == 1)
    (root / "tiny" / "policy.json").write_text('{"all": true}')
    bundles.publish(root, "tiny", bundles.Tiny.random(3))
    eventually(lambda: index(client).get(("tiny", "3"), ("",))[0] == "READY")
    assert default(client) == 1


def test_an_unloaded_model_stays_unloaded(client: httpx.Client, root: Path) -> None:
    client.post("/v2/repository/models/tiny/unload")
    bundles.publish(root, "tiny", bundles.Tiny.random(2))
    bundles.publish(root, "other")
    eventually(lambda: ("other", "1") in index(client))
    assert client.get("/v2/models/tiny/ready").status_code == 404
    assert client.post("/v2/repository/models/tiny/load").json()["version"] == "2"
