"""What every route may use."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from anyio import CapacityLimiter
from fastapi import Depends, Request

from models.repository import UnknownVersionError
from service.monitor.meters import MODEL, Meters
from service.monitor.monitor import Monitor
from service.monitor.tally import Tally
from service.protocol.counts import ModelStatistics
from service.runtime.maps import LayerMaps
from service.runtime.model import LoadedModel
from service.runtime.shelf import ModelShelf
from service.settings import Settings

_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass
class Lifetime:
    """Whether the process has been told to end."""

    ends: bool = False


class Peers(Protocol):
    """The other processes that serve the same models on the same port."""

    async def counts(self) -> list[ModelStatistics]:
        """What their versions have done, one entry for each process and version."""


@dataclass(frozen=True)
class Context:
    """The parts of one running application."""

    settings: Settings
    shelf: ModelShelf
    meters: Meters
    tally: Tally
    workers: CapacityLimiter
    """Threads that decode and infer; requests wait here when all are busy."""
    monitor: Monitor
    maps: LayerMaps
    peers: "Peers | None" = None
    """None when this process is all there is."""
    lifetime: Lifetime = field(default_factory=Lifetime)

    async def model(self, request: Request, name: str, version: int | str | None = None) -> LoadedModel:
        """The model that a request names, noted in its scope for the metrics.

        Raises `UnknownModelError`, `UnknownVersionError` or `ModelUnavailableError`.
        """
        if isinstance(version, str):
            version = await self._version(name, version)
        model = await self.shelf.get(name, version)
        request.scope[MODEL] = name
        return model

    async def _version(self, name: str, version: str) -> int:
        if _VERSION.fullmatch(version):
            return int(version)
        await self.shelf.get(name)  # an unknown model is the greater error
        raise UnknownVersionError(name, version, await self.shelf.versions(name))


# Not a plain function: FastAPI would call that in a thread of its own.
async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Here = Annotated[Context, Depends(_context)]
