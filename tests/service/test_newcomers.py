"""Processes that come later, when what the others serve cannot be loaded any more."""

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import anyio
import httpx
import pytest

from models.remote import RemoteRepository
from service.control.control import Control
from service.control.course import PATIENCE
from service.control.replica import ReplicaEndedError
from service.errors import ModelUnavailableError
from tests import bundles
from tests.service.conftest import eventually
from tests.service.operated import Operated, operated
from tests.service.test_replicas import Replica, started


class Fatal(Replica):
    """A replica that ends when it is to load some version, and counts how often it was told to."""

    def __init__(self, root: Path, version: int) -> None:
        super().__init__(root)
        self.told = 0
        self._version = version

    async def prepare(self, name: str, version: int) -> None:
        if version == self._version:
            self.told += 1
            raise ReplicaEndedError
        await super().prepare(name, version)


def cut(root: Path, version: int) -> None:
    (root / "tiny" / str(version) / "model.onnx").write_bytes(b"cut short")


def remove(root: Path, version: int) -> None:
    shutil.rmtree(root / "tiny" / str(version))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (1, 2):
        bundles.publish(tmp_path / "shelf", "tiny", bundles.Tiny.random(seed))
    return tmp_path / "shelf"


@pytest.mark.parametrize("spoil", [cut, remove])
def test_what_no_newcomer_can_load_gives_way_when_nobody_serves_it(
    root: Path, spoil: Callable[[Path, int], None]
) -> None:
    first, later = Replica(root), Replica(root)

    async def scenario() -> None:
        control = await started(root, first)
        spoil(root, 2)
        for _ in range(PATIENCE + 1):
            with pytest.raises(ModelUnavailableError, match=r"SHA-256|no version 2|ended"):
                await control.join(Replica(root))
            assert first.versions == [2]
        control.leave(first)
        await control.join(later)
        assert later.versions == [1]
        assert not later.dismissed

    anyio.run(scenario)


def test_a_newcomer_leaves_out_what_is_not_the_default(root: Path) -> None:
    first, later = Replica(root), Replica(root)

    async def scenario() -> None:
        control = await started(root, first)
        await control.label("tiny", "old", 1)
        cut(root, 1)
        await control.join(later)
        assert first.versions == later.versions == [2]
        assert "SHA-256" in first.serving("tiny").failures[1]
        with pytest.raises(ModelUnavailableError, match="SHA-256"):
            await control.demand("tiny", 1)
        assert later.opened == [2]

    anyio.run(scenario)


def test_files_that_were_mended_are_served_by_all_again(root: Path) -> None:
    first, later = Replica(root), Replica(root)
    graph = root / "tiny" / "2" / "model.onnx"
    content = graph.read_bytes()

    async def scenario() -> None:
        control = await started(root, first)
        cut(root, 2)
        with pytest.raises(ModelUnavailableError):
            await control.join(Replica(root))
        graph.write_bytes(content)
        await control.join(later)
        assert first.versions == later.versions == [2]

    anyio.run(scenario)


def test_what_is_kept_of_a_remote_is_brought_again_for_a_newcomer(root: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    first, later = Replica(kept), Replica(kept)

    async def scenario() -> None:
        control = Control(RemoteRepository(f"file://{root}", kept, 100_000_000))
        await control.join(first)
        await control.start()
        remove(kept, 2)
        await control.join(later)
        assert first.versions == later.versions == [2]
        await control.close()

    anyio.run(scenario)


def test_newcomers_that_end_are_told_to_load_a_version_so_often(root: Path) -> None:
    first, later = Replica(root), [Fatal(root, 2) for _ in range(PATIENCE + 2)]

    async def scenario() -> None:
        control = await started(root, first)
        for newcomer in later[:PATIENCE]:
            with pytest.raises(ReplicaEndedError):
                await control.join(newcomer)
        for newcomer in later[PATIENCE:]:
            with pytest.raises(ModelUnavailableError, match="the process that loaded it ended"):
                await control.join(newcomer)
        # It may never load again, and is served on where it is loaded.
        assert [newcomer.told for newcomer in later] == [1] * PATIENCE + [0, 0]
        await control.poll()
        assert first.versions == [2]

    anyio.run(scenario)


def joined(service: Operated) -> list[int]:
    found = (re.fullmatch(r"worker \d+ is process (\d+)", line["message"]) for line in service.lines())
    return [int(match[1]) for match in found if match]


def test_a_model_whose_files_are_gone_is_served_on_until_they_are_back(root: Path, tmp_path: Path) -> None:
    """The process that still has it serves alone; the one that fell over comes back with the files."""
    bundles.publish(root, "other")
    remove(root, 2)
    with operated(root, tmp_path / "log", WORKERS=2, LOG_FORMAT="json") as service:
        shutil.move(root / "tiny", tmp_path / "away")
        victim = joined(service)[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: "cannot serve what the others do" in service.log.read_text(), seconds=40)
        for path in ("/v2/models/other/ready", "/v2/models/tiny/ready"):
            for _ in range(8):
                assert httpx.get(service.url + path, timeout=30).status_code == 200
        shutil.move(tmp_path / "away", root / "tiny")
        eventually(lambda: len(joined(service)) == 3, seconds=60)
        for _ in range(8):
            assert httpx.get(f"{service.url}/v2/models/tiny/ready", timeout=30).status_code == 200
