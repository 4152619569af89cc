"""What every route may use."""

from dataclasses import dataclass, field
from typing import Annotated, Protocol

from anyio import CapacityLimiter
from fastapi import Depends, Query, Request

from models.choice import Label
from models.choice import Version as Number
from models.publishing import VERSION
from models.repository import UnknownVersionError
from service.batching.scheduler import Scheduler
from service.control.controls import Controls
from service.control.serving import WHOLE
from service.errors import BadRequestError, ControlError, ModelUnavailableError
from service.logs import REQUEST_ID
from service.monitor.meters import MODEL, Meters
from service.monitor.monitor import Monitor
from service.monitor.tally import Tally
from service.protocol.counts import ModelStatistics
from service.runtime.maps import LayerMaps
from service.runtime.model import LoadedModel
from service.runtime.shelf import ModelShelf
from service.settings import Settings

# So often a version may be let go between its loading and the request that it was loaded for.
DEMANDS = 3


@dataclass
class Lifetime:
    """Whether the process has been told to end."""

    ends: bool = False


class Peers(Protocol):
    """The other processes that serve the same models on the same port."""

    async def counts(self, own: list[ModelStatistics]) -> list[ModelStatistics]:
        """What their versions have done, and those of processes that have ended; to be told what this one has done."""


@dataclass(frozen=True)
class Context:
    """The parts of one running application."""

    settings: Settings
    shelf: ModelShelf
    control: Controls
    """Decides what is on the shelf, for all processes."""
    meters: Meters
    tally: Tally
    scheduler: Scheduler
    """Through which every run goes, and all work that takes long."""
    workers: CapacityLimiter
    """Threads that read bodies; requests wait here when all are busy."""
    monitor: Monitor
    maps: LayerMaps
    peers: "Peers | None" = None
    """None when this process is all there is."""
    lifetime: Lifetime = field(default_factory=Lifetime)

    async def model(self, request: Request, name: str, version: int | str | None = None) -> LoadedModel:
        """The model that a request names, noted in its scope for the metrics.

        A version may be a number, also as text, or a label; one that is not loaded is loaded now, if it can be. Raises
        `UnknownModelError`, `UnknownVersionError`, `UnloadedError` or `ModelUnavailableError`.
        """
        number = int(version) if isinstance(version, str) and VERSION.fullmatch(version) else version
        if isinstance(number, str):
            number = await self._labelled(name, number)
        model = self.shelf.find(name, number)
        if model is None:
            model = await self._demanded(name, number)
        request.scope[MODEL] = name
        return model

    def drawn(self, request: Request, name: str) -> int | None:
        """The version that is to answer an inference which names none: None for the default, but for what has a share.

        It is loaded, until somebody else runs.
        """
        shares = self.shelf.shares.get(name)
        return None if shares is None else shares.draw(request.scope[REQUEST_ID])

    def check_control(self) -> None:
        """Raise `ControlError` where requests may not change what is served."""
        if self.settings.model_control == "none":
            raise ControlError(
                "explicit model load / unload is not allowed: start the service with RESLENS_MODEL_CONTROL=explicit"
            )

    async def _labelled(self, name: str, label: str) -> int:
        serving = self.shelf.serving(name)
        if label not in serving.labels:
            await self.control.demand(name)  # an unknown model is the greater error
            serving = self.shelf.serving(name)
        if label not in serving.labels:
            states = await self.control.states()
            versions = [state.version for state in states if state.name == name and state.version != WHOLE]
            raise UnknownVersionError(name, label[:80], versions, serving.labels)
        return serving.labels[label]

    async def _demanded(self, name: str, version: int | None) -> LoadedModel:
        for _ in range(DEMANDS):
            await self.control.demand(name, version)
            model = self.shelf.find(name, version)
            if model is not None:
                return model
        raise ModelUnavailableError(f"model {name!r} was let go while it was asked for: try again")


def named(version: int | None, label: str | None) -> int | str | None:
    """What a query says of the version; raises `BadRequestError` where it says two things."""
    if version is not None and label is not None:
        raise BadRequestError(f"version {version} and label {label!r} exclude each other: name one")
    return version if label is None else label


# Not a plain function: FastAPI would call that in a thread of its own.
async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Version = Annotated[Number | None, Query()]
LabelQuery = Annotated[Label | None, Query()]
Here = Annotated[Context, Depends(_context)]
