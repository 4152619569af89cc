"""Several replicas under one control: all of them serve the same, or nothing changes."""

import shutil
from pathlib import Path

import anyio
import pytest

from models.repository import Bundle, ModelRepository
from service.control.control import Control
from service.control.replica import ReplicaLostError
from service.control.serving import Serving
from service.errors import LoadRefusedError, ModelUnavailableError
from service.runtime.model import LoadedModel
from service.runtime.provider import CPU
from service.runtime.shelf import ModelShelf
from tests import bundles


class Replica(ModelShelf):
    """A shelf that refuses some versions, may be lost, and remembers that it was dismissed."""

    def __init__(self, root: Path) -> None:
        super().__init__(ModelRepository(root), self._open)
        self.refuses: dict[int, Exception] = {}
        self.opened: list[int] = []
        self.lost = False
        self.dismissed = ""

    async def prepare(self, name: str, version: int) -> None:
        self._check()
        await super().prepare(name, version)

    async def serve(self, serving: Serving) -> None:
        self._check()
        await super().serve(serving)

    def dismiss(self, reason: str) -> None:
        self.dismissed = reason

    @property
    def versions(self) -> list[int]:
        return [model.manifest.version for model in self.loaded()]

    def _check(self) -> None:
        if self.lost:
            raise ReplicaLostError("it is gone")

    def _open(self, bundle: Bundle) -> LoadedModel:
        version = bundle.manifest.version
        self.opened.append(version)
        if version in self.refuses:
            raise self.refuses[version]
        return LoadedModel(bundle, CPU, threads=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (1, 2):
        bundles.publish(tmp_path, "tiny", bundles.Tiny.random(seed))
    return tmp_path


async def started(root: Path, *replicas: Replica) -> Control:
    control = Control(ModelRepository(root))
    for replica in replicas:
        await control.join(replica)
    await control.start()
    return control


def test_all_serve_what_one_request_asked_for(root: Path) -> None:
    first, second = Replica(root), Replica(root)

    async def scenario() -> None:
        control = await started(root, first, second)
        assert first.versions == second.versions == [2]
        await control.demand("tiny", 1)
        assert first.versions == second.versions == [1, 2]
        await control.unload("tiny")
        assert first.versions == second.versions == []
        assert await control.load("tiny", 1) == 1
        for replica in (first, second):
            model = replica.find("tiny")
            assert model is not None
            assert model.manifest.version == 1

    anyio.run(scenario)


def test_what_one_replica_cannot_load_none_serves(root: Path) -> None:
    first, second = Replica(root), Replica(root)
    second.refuses[3] = ValueError("no kernel for it")

    async def scenario() -> None:
        control = await started(root, first, second)
        bundles.publish(root, "tiny", bundles.Tiny.random(3))
        for _ in range(2):
            with pytest.raises(ModelUnavailableError, match="version 3 cannot be served: no kernel for it"):
                await control.load("tiny")
            assert first.versions == second.versions == [2]
        assert first.opened == second.opened == [2, 3, 3]
        with pytest.raises(ModelUnavailableError):
            await control.label("tiny", "canary", 3)
        assert ModelRepository(root).choice("tiny").labels == {}
        states = {state.version: (state.state, state.reason) for state in await control.states()}
        assert states == {1: ("UNAVAILABLE", ""), 2: ("READY", ""), 3: ("UNAVAILABLE", "no kernel for it")}

    anyio.run(scenario)


def test_a_replica_that_comes_later_serves_what_the_others_do(root: Path) -> None:
    first, second = Replica(root), Replica(root)

    async def scenario() -> None:
        control = await started(root, first)
        await control.label("tiny", "old", 1)
        bundles.publish(root, "tiny", bundles.Tiny.random(3))
        await control.join(second)
        assert second.versions == [1, 2]
        assert second.serving("tiny") == first.serving("tiny")
        await control.load("tiny")
        assert first.versions == second.versions == [1, 3]

    anyio.run(scenario)


def test_a_replica_that_cannot_serve_what_others_do_is_left_out(root: Path) -> None:
    first, second = Replica(root), Replica(root)

    async def scenario() -> None:
        control = await started(root, first)
        (root / "tiny" / "2" / "model.onnx").write_bytes(b"cut short")
        with pytest.raises(ModelUnavailableError, match="SHA-256"):
            await control.join(second)
        await control.demand("tiny", 1)
        assert (first.versions, second.versions) == ([1, 2], [])

    anyio.run(scenario)


def test_a_replica_that_is_all_there_is_serves_what_is_good(root: Path) -> None:
    first, second = Replica(root), Replica(root)

    async def scenario() -> None:
        control = await started(root, first)
        (root / "tiny" / "2" / "model.onnx").write_bytes(b"cut short")
        control.leave(first)
        with pytest.raises(LoadRefusedError, match="no process"):
            await control.demand("tiny", 1)
        await control.join(second)
        assert second.versions == [1]

    anyio.run(scenario)


def test_a_lost_replica_leaves_and_says_nothing_against_a_version(root: Path) -> None:
    first, second = Replica(root), Replica(root)

    async def scenario() -> None:
        control = await started(root, first, second)
        second.lost = True
        assert await control.load("tiny", 1) == 1
        assert first.failures == []
        second.lost = False
        await control.join(second)
        assert second.versions == [1, 2]
        assert not second.dismissed

    anyio.run(scenario)


def test_a_change_ends_although_whoever_asked_has_gone(root: Path) -> None:
    first = Replica(root)

    async def scenario() -> None:
        control = await started(root, first)
        bundles.publish(root, "tiny", bundles.Tiny.random(3))
        with anyio.move_on_after(0.001):
            await control.load("tiny")
        await control.close()
        assert first.versions == [3]

    anyio.run(scenario)


def test_what_the_system_refuses_is_tried_again_by_the_next_look(root: Path) -> None:
    first = Replica(root)
    first.refuses[2] = MemoryError("none left")

    async def scenario() -> None:
        control = await started(root, first)
        assert first.versions == [1]
        await control.poll()
        assert first.opened == [2, 1, 2]
        del first.refuses[2]
        await control.poll()
        assert first.versions == [2]
        bundles.publish(root, "other")
        shutil.rmtree(root / "tiny")
        await control.poll()
        assert [model.manifest.name for model in first.loaded()] == ["other"]

    anyio.run(scenario)


def test_a_look_tries_a_broken_version_again_only_when_its_files_have_changed(root: Path) -> None:
    first = Replica(root)
    first.refuses[3] = ValueError("no kernel for it")

    async def scenario() -> None:
        control = await started(root, first)
        bundles.publish(root, "tiny", bundles.Tiny.random(3))
        for _ in range(3):
            await control.poll()
        assert first.opened == [2, 3]
        del first.refuses[3]
        (root / "tiny" / "3" / "model.onnx").touch()
        await control.poll()
        assert first.opened == [2, 3, 3]
        assert first.versions == [3]

    anyio.run(scenario)


class Recorded(Replica):
    """A replica that takes a while, and writes down what it is loading."""

    def __init__(self, root: Path, loading: list[str], most: list[int], seen: list[str]) -> None:
        super().__init__(root)
        self._own: list[str] = []
        self._loading, self._most, self._seen = loading, most, seen

    async def prepare(self, name: str, version: int) -> None:
        assert not self._own, "it has one load at a time, so that what ends it is known"
        assert name in self._seen or name not in self._loading, "it is tried by one"
        self._own.append(name)
        self._loading.append(name)
        self._most.append(len(self._loading))
        await anyio.sleep(0.05)
        await super().prepare(name, version)
        self._seen.append(name)
        self._loading.remove(name)
        self._own.remove(name)


def test_at_the_start_each_tries_a_model_while_the_other_does(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        bundles.publish(tmp_path, name)
    loading: list[str] = []
    most: list[int] = []
    seen: list[str] = []
    replicas = [Recorded(tmp_path, loading, most, seen) for _ in range(2)]

    async def scenario() -> None:
        await started(tmp_path, *replicas)
        for replica in replicas:
            assert [model.manifest.name for model in replica.loaded()] == ["a", "b", "c"]

    anyio.run(scenario)
    assert max(most) == 2, "a load of each at the same time"
    assert sorted(seen) == ["a", "a", "b", "b", "c", "c"]
