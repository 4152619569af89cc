"""A version that was rolled back, or is still being tried, is served by default by nobody until it is pinned."""

import json
import shutil
from pathlib import Path

import httpx
import pytest

from models.repository import ModelRepository
from tests import bundles
from tests.service.conftest import eventually, serving

LOAD = "/v2/repository/models/tiny/load"
ROLLBACK = "/v1/models/tiny/rollback"
WITHHELD = "/v1/models/tiny/withheld"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (1, 2, 3):
        bundles.publish(tmp_path, "tiny", bundles.Tiny.random(seed))
    return tmp_path


def default(client: httpx.Client) -> int:
    version: int = client.get("/v1/models/tiny").json()["version"]
    return version


def default_of_a_new_one(root: Path, **settings: object) -> int:
    with serving(root, history_url="", **settings) as client:
        return default(client)


def test_what_was_rolled_back_comes_back_only_by_its_number(root: Path) -> None:
    with serving(root, history_url="") as client:
        client.post(ROLLBACK).raise_for_status()
        assert client.get("/v1/models/tiny/labels").json()["withheld"] == [3]
        # Neither a load of the newest, nor a restart, nor whatever a policy asks for serves it.
        assert client.post(LOAD).json()["version"] == "2"
        entries = client.post("/v2/repository/index").json()
        assert "withheld" in next(entry["reason"] for entry in entries if entry["version"] == "3")
        for policies in ({}, {"tiny": {"all": True}}, {"tiny": {"latest": 3}}):
            assert default_of_a_new_one(root, version_policies=policies) == 2
        # The next one is newer, and as good as any.
        assert bundles.publish(root, "tiny", bundles.Tiny.random(4)) == 4
        assert client.post(LOAD).json()["version"] == "4"
        assert client.post(LOAD, json={"parameters": {"version": 3}}).json()["version"] == "3"
        assert client.get("/v1/models/tiny/labels").json()["withheld"] == []


def test_who_cannot_load_what_is_pinned_serves_nothing_newer(root: Path) -> None:
    """Newer ones were not chosen: the pin is there because they are tried, or bad."""
    with serving(root, history_url="") as client:
        client.post(LOAD, json={"parameters": {"version": 2}}).raise_for_status()
    shutil.rmtree(root / "tiny" / "2")
    assert default_of_a_new_one(root) == 1
    # If there is nothing before it, what is newer is better than nothing, but for what is withheld.
    shutil.rmtree(root / "tiny" / "1")
    bundles.publish(root, "tiny", bundles.Tiny.random(4))
    (root / "tiny" / "serving.json").write_text(json.dumps({"default": 2, "withheld": [4]}))
    assert default_of_a_new_one(root) == 3


def test_a_version_is_withheld_before_it_is_published(root: Path) -> None:
    settings = {"history_url": "", "model_control": "poll", "poll_seconds": 0.1}
    with serving(root, **settings) as client, serving(root, **settings) as follower:
        assert client.put(f"{WITHHELD}/4").json()["withheld"] == [4]
        assert bundles.publish(root, "tiny", bundles.Tiny.random(4)) == 5, "another publisher gets another number"
        eventually(lambda: [default(client), default(follower)] == [5, 5])
        client.put(f"{WITHHELD}/6").raise_for_status()
        shutil.copytree(root / "tiny" / "5", root / "elsewhere" / "6")
        manifest = root / "elsewhere" / "6" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"version": 5', '"version": 6'))
        (root / "elsewhere" / "6").rename(root / "tiny" / "6")
        eventually(lambda: "6" in [entry["version"] for entry in follower.post("/v2/repository/index").json()])
        # Polled often enough by now: it can be named, and is the default of nobody.
        assert follower.get("/v2/models/tiny/versions/6/ready").status_code == 200
        assert [default(client), default(follower)] == [5, 5]
        assert client.delete(f"{WITHHELD}/6").status_code == 204
        eventually(lambda: [default(client), default(follower)] == [6, 6])


@pytest.mark.parametrize(("version", "status", "message"), [(3, 409, "is the default"), (5, 404, "has no version 5")])
def test_what_cannot_be_withheld(root: Path, version: int, status: int, message: str) -> None:
    with serving(root, history_url="") as client:
        refused = client.put(f"{WITHHELD}/{version}")
        assert refused.status_code == status
        assert message in refused.json()["error"]
        assert client.put("/v1/models/absent/withheld/1").status_code == 404


def test_a_number_that_was_withheld_is_given_to_no_other(root: Path) -> None:
    with serving(root, history_url="") as client:
        client.post(ROLLBACK).raise_for_status()
        shutil.rmtree(root / "tiny" / "3")
        assert bundles.publish(root, "tiny", bundles.Tiny.random(4)) == 4
        assert client.post(LOAD).json()["version"] == "4"
    assert ModelRepository(root).versions("tiny") == [1, 2, 4]
