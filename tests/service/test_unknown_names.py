"""Requests for what is not there, many of them."""

import asyncio
import time
from pathlib import Path

import anyio
import pytest

from models.repository import Entry, ModelRepository, UnknownModelError, UnknownVersionError
from service.control.control import Control
from service.control.unknown import MOST, SECONDS, Unknown
from tests import bundles
from tests.service.test_replicas import Replica

MANY = 50


class Counted(ModelRepository):
    """A repository that counts how often it is looked at and trimmed."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.looks = 0
        self.listings = 0
        self.trimmed: list[set[Entry]] = []

    def versions(self, name: str) -> list[int]:
        self.looks += 1
        return super().versions(name)

    def names(self) -> list[str]:
        self.listings += 1
        return super().names()

    def trim(self, served: set[Entry]) -> None:
        self.trimmed.append(set(served))


@pytest.fixture
def repository(tmp_path: Path) -> Counted:
    for seed in (1, 2):
        bundles.publish(tmp_path, "tiny", bundles.Tiny.random(seed))
    return Counted(tmp_path)


async def started(repository: Counted) -> Control:
    control = Control(repository)
    await control.join(Replica(repository.root))
    await control.start()
    return control


@pytest.mark.parametrize(
    ("name", "version", "error"), [("absent", None, UnknownModelError), ("tiny", 9, UnknownVersionError)]
)
def test_what_is_not_there_is_looked_for_once_in_a_while(
    repository: Counted, name: str, version: int | None, error: type[Exception]
) -> None:
    async def scenario() -> None:
        control = await started(repository)
        trims, looks = len(repository.trimmed), repository.looks
        with pytest.raises(error):
            await control.demand(name, version)
        once = repository.looks - looks
        messages = set()
        for _ in range(MANY):
            with pytest.raises(error) as raised:
                await control.demand(name, version)
            messages.add(str(raised.value))
        # Beginning within one period, they may end in the next.
        assert repository.looks - looks <= 2 * once
        assert len(messages) == 1
        assert len(repository.trimmed) == trims

    anyio.run(scenario)


def test_however_many_names_are_unknown_the_repository_is_listed_once_in_a_while(repository: Counted) -> None:
    async def scenario() -> None:
        control = await started(repository)
        listings, looks = repository.listings, repository.looks

        async def ask(name: str) -> None:
            with pytest.raises(UnknownModelError, match=f"'{name}'; choose from tiny"):
                await control.demand(name)

        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(MANY):
                tasks.create_task(ask(f"at-once-{number}"))
        for number in range(MANY):
            await ask(f"later-{number}")
        periods = 1 + int((time.monotonic() - began) / SECONDS)
        assert 1 <= repository.listings - listings <= periods
        # One for each that is asked for, by its name, and one for each listing.
        assert repository.looks - looks <= 2 * MANY + periods
        # What was published since the listing, and was not asked for before, is found at once.
        bundles.publish(repository.root, "new")
        await control.demand("new")

    anyio.run(scenario)


def test_what_comes_is_found_after_a_while_or_a_load(repository: Counted) -> None:
    async def scenario() -> None:
        control = await started(repository)
        for name in ("late", "later"):
            with pytest.raises(UnknownModelError):
                await control.demand(name)
            bundles.publish(repository.root, name)
        await control.load("late")
        await control.demand("late")
        await anyio.sleep(SECONDS)
        await control.demand("later")
        assert [serving.name for serving in control.servings()] == ["late", "later", "tiny"]

    anyio.run(scenario)


def test_the_cache_is_trimmed_after_changes(repository: Counted) -> None:
    async def scenario() -> None:
        control = await started(repository)
        first, second = Entry("tiny", 1), Entry("tiny", 2)
        assert repository.trimmed[-1] == {second}
        trims = len(repository.trimmed)
        for _ in range(MANY):
            await control.demand("tiny", 2)
            await control.demand("tiny")
        assert len(repository.trimmed) == trims
        await control.demand("tiny", 1)
        assert repository.trimmed[trims:] == [{first, second}]
        await control.unload("tiny")
        # What was served until now counts as served until now.
        assert repository.trimmed[trims + 1 :] == [{first, second}, set()]

    anyio.run(scenario)


def test_no_more_than_so_many_are_remembered() -> None:
    unknown = Unknown(seconds=60)
    for number in range(MOST + 1):
        unknown.add(str(number), None, UnknownModelError(str(number), []))
    unknown.check("0", None)
    with pytest.raises(UnknownModelError, match=f"'{MOST}'"):
        unknown.check(str(MOST), None)
    with pytest.raises(UnknownModelError, match="'1'"):
        unknown.check("1", None)
