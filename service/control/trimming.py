"""Keeps what is here of what is elsewhere within its limit."""

from collections.abc import Iterable

from anyio import to_thread

from models.repository import Entry, ModelRepository
from service.control.serving import Serving


class Trimming:
    """Has the repository drop what is not served; only after something was loaded or let go, for it takes a while."""

    def __init__(self, repository: ModelRepository) -> None:
        self._repository = repository
        self._loads = 0
        self._served: set[Entry] = set()

    async def after(self, loads: int, servings: Iterable[Serving]) -> None:
        """`loads` is how many there were so far."""
        served = {Entry(serving.name, version) for serving in servings for version in serving.versions}
        before = self._served
        if (loads, served) == (self._loads, before):
            return
        self._loads, self._served = loads, served
        if before - served:  # until now they were served: others go first
            await to_thread.run_sync(self._repository.trim, before | served)
        await to_thread.run_sync(self._repository.trim, served)
