"""Services that read one repository: who follows later undoes nothing, and misses nothing."""

import json
import secrets
from pathlib import Path

import anyio
import fsspec
import pytest

from models.choice import Choice
from models.remote import RemoteRepository
from models.repository import ModelRepository
from service.control.control import Control
from service.control.serving import Serving
from service.errors import ConflictError
from tests import bundles

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Served:
    """A replica that loads everything, and remembers what it was told last."""

    def __init__(self) -> None:
        self.now = Serving(name="tiny")

    async def prepare(self, name: str, version: int) -> None:
        assert (name, version > 0) == ("tiny", True)

    async def serve(self, serving: Serving) -> None:
        self.now = serving

    def dismiss(self, reason: str) -> None:
        raise AssertionError(reason)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (1, 2, 3, 4):
        bundles.publish(tmp_path, "tiny", bundles.Tiny.random(seed))
    ModelRepository(tmp_path).choose("tiny", Choice(default=2))
    return tmp_path


async def started(root: Path) -> tuple[Control, Served]:
    control, served = Control(ModelRepository(root)), Served()
    await control.join(served)
    await control.start()
    return control, served


async def test_who_follows_later_ends_no_share_that_was_given_since(root: Path) -> None:
    (first, _), (later, served) = await started(root), await started(root)
    await first.load("tiny", 3)
    await first.load("tiny", 4)
    await first.label("tiny", "canary", 1, 5.0)
    chosen = ModelRepository(root).choice("tiny")
    await later.poll()
    assert (served.now.default, served.now.shares) == (4, {"canary": 5})
    assert ModelRepository(root).choice("tiny") == chosen
    assert chosen.previous == (2, 3), "a rollback goes to 3"


async def test_a_share_ends_with_a_default_that_all_of_them_find(root: Path) -> None:
    ModelRepository(root).choose("tiny", Choice())
    (first, one), (later, other) = await started(root), await started(root)
    await first.label("tiny", "canary", 1, 5.0)
    bundles.publish(root, "tiny", bundles.Tiny.random(5))
    for control in (later, first):
        await control.poll()
    assert [(each.now.default, each.now.shares) for each in (one, other)] == [(5, {})] * 2
    assert ModelRepository(root).choice("tiny") == Choice(previous=(4,), labels={"canary": 1})


async def test_who_changes_a_label_still_follows_what_was_pinned_elsewhere(root: Path) -> None:
    (first, _), (later, served) = await started(root), await started(root)
    await first.load("tiny", 3)
    await later.label("tiny", "canary", 4, 5.0)
    await later.poll()
    assert (served.now.default, served.now.shares) == (3, {"canary": 5})
    assert ModelRepository(root).choice("tiny").shares == {"canary": 5}


async def test_what_is_withheld_while_a_rollback_loads_stays_withheld(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = ModelRepository(root)
    control, served = await started(root)
    await control.load("tiny", 3)

    async def prepare(name: str, version: int) -> None:  # noqa: ARG001
        elsewhere = repository.choice("tiny").withholding(4)
        await anyio.to_thread.run_sync(repository.choose, "tiny", elsewhere)

    monkeypatch.setattr(served, "prepare", prepare)
    assert await control.rollback("tiny") == 2
    assert repository.choice("tiny").withheld == (3, 4)


async def test_what_is_pinned_cannot_be_withheld_where_another_one_is_served(root: Path) -> None:
    control, _ = await started(root)
    (root / "tiny" / "serving.json").write_text(json.dumps({"default": 3}))
    with pytest.raises(ConflictError, match="is the default"):
        await control.withhold("tiny", 3)


async def test_of_what_was_unloaded_it_is_said_what_is_withheld(root: Path) -> None:
    control, served = await started(root)
    await control.unload("tiny")
    await control.withhold("tiny", 4)
    assert (served.now.versions, served.now.loaded, served.now.withheld) == ((), False, (4,))


async def test_a_label_keeps_what_others_withheld_in_a_bucket(root: Path, tmp_path: Path) -> None:
    """Between two looks at it, too."""
    files, base = fsspec.filesystem("memory"), f"/{secrets.token_hex(8)}"
    files.put(str(root / "tiny"), f"{base}/tiny", recursive=True)
    control = Control(RemoteRepository(f"memory:/{base}", tmp_path / "cache", 100_000_000))
    await control.join(Served())
    await control.start()
    files.pipe_file(f"{base}/tiny/serving.json", b'{"default": 2, "withheld": [4]}')
    await control.label("tiny", "stable", 1)
    found = json.loads(files.cat_file(f"{base}/tiny/serving.json"))
    assert found == {"default": 2, "withheld": [4], "labels": {"stable": 1}}
