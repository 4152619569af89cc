import hashlib
import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from models.manifest import Metrics, ModelManifest
from models.publishing import MANIFEST, STALE_SECONDS
from models.repository import (
    BrokenBundleError,
    Entry,
    ModelRepository,
    UnknownModelError,
    UnknownVersionError,
)
from tests import bundles


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path)


def publish(repository: ModelRepository, name: str = "net", content: bytes = b"graph") -> int:
    return bundles.publish(repository.root, name, graph=content)


def rewrite_manifest(repository: ModelRepository, **changes: object) -> None:
    file = repository.root / "net" / "1" / MANIFEST
    fields = json.loads(file.read_bytes()) | changes
    file.write_text(json.dumps(fields))


def reason(repository: ModelRepository) -> str:
    with pytest.raises(BrokenBundleError) as caught:
        repository.open("net")
    return caught.value.reason


# Publishing and reading


def test_opens_what_was_published(repository: ModelRepository) -> None:
    assert publish(repository, content=b"first") == 1
    assert publish(repository, content=b"second") == 2
    assert repository.names() == ["net"]
    assert repository.versions("net") == [1, 2]
    assert repository.open("net", 1).graph == b"first"
    latest = repository.open("net")
    assert (latest.graph, latest.manifest.version, latest.path) == (b"second", 2, repository.root / "net" / "2")
    assert latest.manifest.digests == {"model.onnx": hashlib.sha256(b"second").hexdigest()}


def test_reads_the_baseline_beside_the_graph(repository: ModelRepository) -> None:
    def describe(version: int, digests: dict[str, str]) -> ModelManifest:
        fields = bundles.manifest("net", version, {"model.onnx": "0" * 64}).model_dump()
        return ModelManifest(**{**fields, "digests": digests, "baseline": "baseline.npz"})

    repository.publish("net", {"model.onnx": b"graph", "baseline.npz": b"numbers"}, describe)
    assert repository.open("net").baseline == b"numbers"


def test_versions_sort_as_numbers(repository: ModelRepository) -> None:
    for _ in range(10):
        publish(repository)
    assert repository.versions("net") == list(range(1, 11))
    assert repository.open("net").manifest.version == 10


def test_lists_nothing_in_an_empty_or_absent_root(tmp_path: Path) -> None:
    assert ModelRepository(tmp_path).entries() == []
    assert ModelRepository(tmp_path / "absent").entries() == []


@pytest.mark.parametrize("stray", ["0", "01", "-1", "1.0", "v1", "¹", "latest", ".staging-00", "1" * 30])
def test_directories_that_are_not_versions_are_ignored(repository: ModelRepository, stray: str) -> None:
    publish(repository)
    (repository.root / "net" / stray).mkdir()
    assert repository.entries() == [Entry("net", 1)]
    assert publish(repository) == 2


def test_a_file_with_the_name_of_a_version_is_stepped_over(repository: ModelRepository) -> None:
    publish(repository)
    (repository.root / "net" / "2").write_text("not a directory")
    assert publish(repository) == 3
    assert repository.versions("net") == [1, 3]


def test_links_are_not_followed(repository: ModelRepository, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = ModelRepository(tmp_path_factory.mktemp("elsewhere"))
    publish(elsewhere)
    publish(repository, "own")
    (repository.root / "net").symlink_to(elsewhere.root / "net")
    (repository.root / "own" / "2").symlink_to(elsewhere.root / "net" / "1")
    assert repository.entries() == [Entry("own", 1)]
    with pytest.raises(ValueError, match="symbolic link"):
        publish(repository, "net")


# Names that are not on the shelf


@pytest.mark.parametrize("name", ["absent", "", ".", "..", "../net", "net/1", "/etc", "net\0", "a\\b", ".hidden", "né"])
def test_unknown_names_say_what_there_is(repository: ModelRepository, name: str) -> None:
    publish(repository)
    with pytest.raises(UnknownModelError, match="choose from net"):
        repository.open(name)


@pytest.mark.parametrize("name", ["", "..", "../net", "a/b", "/a", ".a", "a b", "a\n", "x" * 129])
def test_only_plain_names_can_be_published(repository: ModelRepository, name: str) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        publish(repository, name)
    assert list(repository.root.iterdir()) == []


@pytest.mark.parametrize("version", [0, -1, 2, 10**30])
def test_unknown_versions_say_what_there_is(repository: ModelRepository, version: int) -> None:
    publish(repository)
    with pytest.raises(UnknownVersionError, match="choose from 1"):
        repository.open("net", version)


# Broken bundles


def test_missing_graph(repository: ModelRepository) -> None:
    publish(repository)
    (repository.root / "net" / "1" / "model.onnx").unlink()
    assert reason(repository) == "model.onnx is missing"


def test_missing_manifest(repository: ModelRepository) -> None:
    (repository.root / "net" / "1").mkdir(parents=True)
    assert reason(repository) == "manifest.json is missing"


@pytest.mark.parametrize("content", [b"", b"grap", b"Graph", b"graph and more"])
def test_changed_graph(repository: ModelRepository, content: bytes) -> None:
    publish(repository)
    (repository.root / "net" / "1" / "model.onnx").write_bytes(content)
    assert "SHA-256" in reason(repository)


def test_graph_that_is_a_link(repository: ModelRepository, tmp_path_factory: pytest.TempPathFactory) -> None:
    publish(repository)
    graph = repository.root / "net" / "1" / "model.onnx"
    graph.rename(target := tmp_path_factory.mktemp("outside") / "model.onnx")
    graph.symlink_to(target)
    assert "not an ordinary file" in reason(repository)


def test_graph_that_is_a_pipe_is_not_waited_for(repository: ModelRepository) -> None:
    publish(repository)
    graph = repository.root / "net" / "1" / "model.onnx"
    graph.unlink()
    os.mkfifo(graph)
    assert "not an ordinary file" in reason(repository)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_manifest_that_is_not_a_json_object(repository: ModelRepository, content: bytes) -> None:
    publish(repository)
    (repository.root / "net" / "1" / MANIFEST).write_bytes(content)
    assert "not JSON" in reason(repository) or "not a JSON object" in reason(repository)


@pytest.mark.parametrize("schema", [7, True, 1.0])
def test_unknown_schema_names_both_versions(repository: ModelRepository, schema: object) -> None:
    publish(repository)
    rewrite_manifest(repository, schema_version=schema)
    assert reason(repository) == f"manifest.json has schema version {schema}; this program reads version 1"


def test_wrong_and_unknown_fields_are_named(repository: ModelRepository) -> None:
    publish(repository)
    rewrite_manifest(repository, class_names=["one"], surprise=1)
    assert "class_names" in reason(repository)
    assert "surprise" in reason(repository)


@pytest.mark.parametrize("changes", [{"name": "other"}, {"version": 2}])
def test_manifest_of_another_model(repository: ModelRepository, changes: dict[str, object]) -> None:
    publish(repository)
    rewrite_manifest(repository, **changes)
    assert "its manifest is of model" in reason(repository)


def test_manifest_cannot_name_files_outside(repository: ModelRepository) -> None:
    publish(repository)
    rewrite_manifest(repository, digests={"../../secret": "0" * 64})
    assert "digests" in reason(repository)


def test_a_manifest_that_would_not_be_read_back_is_not_published(repository: ModelRepository) -> None:
    with pytest.raises(ValueError, match="metrics"):
        bundles.publish(
            repository.root, "net", metrics=Metrics(images=1, accuracy=1, loss=float("nan"), data="one image")
        )
    assert repository.names() == []
    assert list((repository.root / "net").iterdir()) == []


# Crashes and company


STEPS = ("mkdir", "open", "fsync", "rename")


def publish_and_die(root: Path, step: str, count: int) -> None:
    """Publish, and end the process without any clean-up just before the `count`-th call of one system call."""
    seen = 0
    original = getattr(os, step) if step in ("fsync", "rename", "mkdir") else Path.open

    def dying(*arguments: object, **options: object) -> object:
        nonlocal seen
        seen += 1
        if seen == count:
            os._exit(9)
        return original(*arguments, **options)

    if step == "open":
        Path.open = dying  # type: ignore[method-assign,assignment]
    else:
        setattr(os, step, dying)
    bundles.publish(root, "net", graph=b"new")
    os._exit(0)


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_leaves_only_whole_versions(repository: ModelRepository, step: str) -> None:
    publish(repository, content=b"old")
    codes = []
    for count in range(1, 20):
        child = multiprocessing.get_context("spawn").Process(
            target=publish_and_die, args=(repository.root, step, count)
        )
        child.start()
        child.join()
        codes.append(child.exitcode)
        for version in repository.versions("net"):
            assert repository.open("net", version).graph == (b"old" if version == 1 else b"new")
        if child.exitcode == 0:
            break
    assert codes[0] == 9, "the step was never reached"
    assert codes[-1] == 0, "the publisher never got through"
    assert publish(repository) == repository.versions("net")[-1]


def test_stale_staging_is_swept_and_fresh_staging_left(repository: ModelRepository) -> None:
    publish(repository)
    stale, fresh = (repository.root / "net" / f".staging-{word}" for word in ("stale", "fresh"))
    for path in (stale, fresh):
        path.mkdir()
        (path / "model.onnx").write_bytes(b"half")
    old = time.time() - STALE_SECONDS - 60
    os.utime(stale, (old, old))
    publish(repository)
    assert not stale.exists()
    assert fresh.exists()
    assert repository.versions("net") == [1, 2]


def publish_several(root: Path, times: int) -> None:
    for _ in range(times):
        bundles.publish(root, "net", graph=b"graph")


def test_publishers_at_the_same_time_never_collide(repository: ModelRepository) -> None:
    spawn = multiprocessing.get_context("spawn")
    publishers = [spawn.Process(target=publish_several, args=(repository.root, 10)) for _ in range(4)]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    assert [publisher.exitcode for publisher in publishers] == [0] * 4
    assert repository.versions("net") == list(range(1, 41))
    for version in repository.versions("net"):
        assert repository.open("net", version).manifest.version == version


def test_a_disk_error_is_reported_and_leaves_nothing(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(repository)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        publish(repository)
    assert [path.name for path in (repository.root / "net").iterdir()] == ["1"]


def test_a_name_whose_last_version_is_gone_is_unknown(repository: ModelRepository) -> None:
    publish(repository)
    shutil.rmtree(repository.root / "net" / "1")
    with pytest.raises(UnknownModelError, match="the repository is empty"):
        repository.open("net")
