"""Models that are elsewhere: in memory, on another file system, and whatever may be wrong there."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from models.choice import Choice
from models.policy import VersionPolicy
from models.remote import RemoteRepository
from models.repository import BrokenBundleError, Entry, ModelRepository, RepositoryError
from tests import bundles

MEGABYTE = 1_000_000


class Remote:
    """A repository in memory, filled from a real one, and a cache of it."""

    def __init__(self, folder: Path) -> None:
        self.files = fsspec.filesystem("memory")
        self.base = f"/{secrets.token_hex(8)}/models"
        self.url = f"memory:/{self.base}"
        self.origin = folder / "origin"
        self.cache = folder / "cache"

    def publish(self, name: str = "tiny", seed: int = 0) -> None:
        version = bundles.publish(self.origin, name, bundles.Tiny.random(seed))
        for file in (self.origin / name / str(version)).iterdir():
            self.write(f"{name}/{version}/{file.name}", file.read_bytes())

    def write(self, path: str, content: bytes) -> None:
        self.files.pipe_file(f"{self.base}/{path}", content)

    def repository(self, max_bytes: int = 100 * MEGABYTE) -> RemoteRepository:
        repository = RemoteRepository(self.url, self.cache, max_bytes)
        repository.refresh()
        return repository


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    remote = Remote(tmp_path)
    remote.publish()
    yield remote
    remote.files.rm(remote.base.rpartition("/")[0], recursive=True)


def test_what_is_there_is_listed_and_only_what_is_wanted_is_brought(remote: Remote) -> None:
    remote.publish()
    remote.publish("other")
    repository = remote.repository()
    assert repository.names() == ["other", "tiny"]
    assert repository.versions("tiny") == [1, 2]
    assert ModelRepository(remote.cache).names() == []
    repository.fetch("tiny", 2)
    assert ModelRepository(remote.cache).entries() == [Entry("tiny", 2)]
    expected = ModelRepository(remote.origin).open("tiny", 2)
    bundle = repository.open("tiny", 2)
    assert (bundle.manifest, bundle.graph) == (expected.manifest, expected.graph)


def test_what_is_kept_is_not_brought_again(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = remote.repository()
    repository.fetch("tiny", 1)
    monkeypatch.delattr(RemoteRepository, "_download")
    repository.fetch("tiny", 1)


@pytest.mark.parametrize("damage", ["truncated", "deleted", "manifest", "linked", "more"])
def test_what_is_damaged_here_is_brought_again(remote: Remote, damage: str) -> None:
    repository = remote.repository()
    repository.fetch("tiny", 1)
    graph, manifest = (remote.cache / "tiny" / "1" / file for file in ("model.onnx", "manifest.json"))
    content = graph.read_bytes()
    if damage == "truncated":
        graph.write_bytes(content[:-1])
    elif damage == "more":
        graph.write_bytes(content + b"x")
    elif damage == "manifest":
        manifest.write_text(manifest.read_text().replace("tiny residual", "other"))
    else:
        graph.unlink()
    if damage == "linked":
        graph.symlink_to(remote.origin / "tiny" / "1" / "model.onnx")
    repository.fetch("tiny", 1)
    assert graph.read_bytes() == content
    assert not graph.is_symlink()
    assert "tiny residual" in repository.open("tiny", 1).manifest.description
    assert [path.name for path in (remote.cache / "tiny").iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("model.onnx", b"other bytes", "has SHA-256"),
        ("model.onnx", None, "model.onnx is missing"),
        ("manifest.json", None, "manifest.json is missing"),
        ("manifest.json", b"{", "is not JSON"),
        ("manifest.json", bytes(5 << 20), "more than"),
    ],
)
def test_what_is_damaged_there_is_never_kept(remote: Remote, file: str, content: bytes | None, reason: str) -> None:
    remote.publish()
    path = f"{remote.base}/tiny/2/{file}"
    remote.files.rm(path)
    if content is not None:
        remote.files.pipe_file(path, content)
    repository = remote.repository()
    with pytest.raises(BrokenBundleError, match=reason):
        repository.fetch("tiny", 2)
    repository.fetch("tiny", 1)
    assert ModelRepository(remote.cache).entries() == [Entry("tiny", 1)]
    assert [path.name for path in (remote.cache / "tiny").iterdir()] == ["1"]


def test_a_manifest_of_another_model_is_refused(remote: Remote) -> None:
    remote.write("tiny/2/manifest.json", (remote.origin / "tiny" / "1" / "manifest.json").read_bytes())
    with pytest.raises(BrokenBundleError, match="is of model 'tiny' version 1"):
        remote.repository().fetch("tiny", 2)


def test_a_version_that_was_replaced_there_is_brought_again(remote: Remote) -> None:
    repository = remote.repository()
    repository.fetch("tiny", 1)
    mark = repository.fingerprint("tiny", 1)
    repository.refresh()
    assert repository.fingerprint("tiny", 1) == mark
    for file in (remote.origin / "tiny" / "1").iterdir():
        file.unlink()
    (remote.origin / "tiny" / "1").rmdir()
    remote.publish(seed=7)
    repository.refresh()
    assert repository.fingerprint("tiny", 1) != mark
    repository.fetch("tiny", 1)
    assert repository.open("tiny", 1).graph == ModelRepository(remote.origin).open("tiny", 1).graph


def test_names_that_could_lead_elsewhere_are_left_out(remote: Remote) -> None:
    for path in ("../tiny/9/model.onnx", "tiny/../../x", "a b/1/model.onnx", "tiny/02/model.onnx", "tiny/x/model.onnx"):
        remote.files.store[f"{remote.base}/{path}"] = remote.files.store[f"{remote.base}/tiny/1/model.onnx"]
    repository = remote.repository()
    assert repository.names() == ["tiny"]
    assert repository.versions("tiny") == [1]


def test_a_version_beyond_the_limit_is_refused(remote: Remote) -> None:
    with pytest.raises(BrokenBundleError, match="may be kept: raise the limit"):
        remote.repository(max_bytes=1000).fetch("tiny", 1)


def test_what_was_not_served_for_longest_makes_room(remote: Remote) -> None:
    for _ in range(4):
        remote.publish()
    size = sum(file.stat().st_size for file in (remote.origin / "tiny" / "1").iterdir())
    repository = remote.repository(max_bytes=int(3.5 * size))
    for version in range(1, 6):
        repository.fetch("tiny", version)
        repository.trim({Entry("tiny", 1)})
    assert ModelRepository(remote.cache).versions("tiny") == [1, 4, 5]


def test_what_is_chosen_there_is_read_and_written(remote: Remote) -> None:
    remote.write("tiny/serving.json", b'{"labels": {"stable": 1}}')
    remote.write("tiny/policy.json", b'{"latest": 3}')
    repository = remote.repository()
    assert repository.choice("tiny") == Choice(labels={"stable": 1})
    assert repository.policy("tiny") == VersionPolicy(latest=3)
    repository.choose("tiny", Choice(default=1))
    assert json.loads(remote.files.cat_file(f"{remote.base}/tiny/serving.json")) == {"default": 1}
    another = RemoteRepository(remote.url, remote.cache.parent / "another", MEGABYTE)
    another.refresh()
    assert another.choice("tiny") == Choice(default=1)
    remote.files.rm(f"{remote.base}/tiny/policy.json")
    repository.refresh()
    assert repository.policy("tiny") is None


def test_what_others_chose_is_read_before_it_is_changed(remote: Remote) -> None:
    """Between two listings too: what is withheld elsewhere must not be lost."""
    repository = remote.repository()
    remote.write("tiny/serving.json", b'{"withheld": [2]}')
    assert repository.choice("tiny") == Choice()
    repository.recall("tiny")
    assert repository.choice("tiny") == Choice(withheld=(2,))
    remote.files.rm(f"{remote.base}/tiny/serving.json")
    repository.recall("tiny")
    assert repository.choice("tiny") == Choice()


def test_what_is_too_long_to_be_a_choice_is_none(remote: Remote) -> None:
    remote.write("tiny/serving.json", b" " * (1 << 20))
    repository = remote.repository()
    assert repository.problem == ""
    with pytest.raises(ValueError, match="more than"):
        repository.choice("tiny")
    assert (remote.cache / "tiny" / "serving.json").stat().st_size < 100_000


def test_nothing_is_published_through_a_cache(remote: Remote) -> None:
    with pytest.raises(RepositoryError, match="publish in a directory"):
        remote.repository().publish("tiny", {}, None)


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/models", "simplecache::s3://bucket/models"])
def test_urls_with_more_than_a_place_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no credentials and no chain") as error:
        RemoteRepository(url, tmp_path, MEGABYTE)
    assert "secret" not in str(error.value)


def test_a_file_url_is_a_remote_too(remote: Remote, tmp_path: Path) -> None:
    repository = RemoteRepository(f"file://{remote.origin}", tmp_path / "kept", 100 * MEGABYTE)
    repository.refresh()
    (remote.origin / "linked").symlink_to(remote.origin / "tiny")
    repository.refresh()
    assert repository.names() == ["tiny"]
    repository.fetch("tiny", 1)
    assert repository.open("tiny", 1).manifest.version == 1
