"""Folders that services leave behind when they are killed."""

import os
from pathlib import Path

import pytest

from service.processes.holding import HOLDERS, holding, sweep
from tests import bundles
from tests.service.conftest import eventually
from tests.service.operated import operated
from tests.service.test_workers import CLASSIFY, IMAGE, alive, children


def held_once(parent: Path, name: str) -> Path:
    """A folder that was held, and is not any more."""
    folder = parent / name
    folder.mkdir()
    with holding(folder, first=True):
        (folder / "file").touch()
    return folder


def test_what_nobody_holds_any_more_is_removed(tmp_path: Path) -> None:
    left, held, new = (held_once(tmp_path, name) for name in ("reslens-left", "reslens-held", "reslens-new"))
    (new / HOLDERS).rename(new / f"{HOLDERS}.new")  # it has not come further
    foreign = held_once(tmp_path, "other")
    linked = held_once(tmp_path, "elsewhere")
    (tmp_path / "reslens-link").symlink_to(linked)
    (tmp_path / "reslens-file").touch()
    trap = tmp_path / "reslens-trap"
    trap.mkdir()
    (trap / HOLDERS).symlink_to(linked / HOLDERS)
    with holding(held), holding(held):
        sweep(tmp_path)
    assert not left.exists()
    for folder in (held, new, foreign, linked):
        assert (folder / "file").exists()
    assert len([*tmp_path.glob("reslens-*")]) == 5
    sweep(tmp_path)
    assert not held.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_what_is_another_users_stays(tmp_path: Path) -> None:
    left = held_once(tmp_path, "reslens-left")
    os.chown(left, 12345, 12345)
    sweep(tmp_path)
    assert (left / "file").exists()


def test_a_start_removes_what_a_killed_service_left(tmp_path: Path, temporary: Path) -> None:
    bundles.publish(tmp_path / "shelf")

    def folders() -> set[Path]:
        return set(temporary.glob("reslens-*"))

    settings = {"WORKERS": 1, "DRAIN_SECONDS": 1}
    with operated(tmp_path / "shelf", tmp_path / "log", **settings) as living:
        (kept,) = folders()
        with operated(tmp_path / "shelf", tmp_path / "log2", **settings) as killed:
            (left,) = folders() - {kept}
            below = children(killed.process.pid)
            killed.process.kill()
            killed.process.wait()
            eventually(lambda: not any(alive(pid) for pid in below))
        assert folders() == {kept, left}
        with operated(tmp_path / "shelf", tmp_path / "log3", **settings) as service:
            assert len(folders()) == 2
            assert folders() & {kept, left} == {kept}
            assert service.stopped() == 0
        assert folders() == {kept}
        assert living.client.post(CLASSIFY, content=IMAGE).status_code == 200
        assert living.client.get("/metrics").status_code == 200
        assert living.stopped() == 0
    assert folders() == set()
