"""The models that are loaded: the newest good version of each name, and versions that requests named."""

import asyncio
import contextlib
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from anyio import CapacityLimiter, to_thread

from models.repository import (
    BrokenBundleError,
    Bundle,
    Entry,
    ModelRepository,
    RepositoryError,
    UnknownModelError,
    UnknownVersionError,
)
from service.errors import ModelUnavailableError, UnloadedError
from service.runtime.model import LoadedModel

logger = logging.getLogger("reslens")


# They say nothing about the bundle.
SYSTEM_ERRORS = (OSError, MemoryError)
UNLOADED = "was unloaded: load it with POST /v2/repository/models/{name}/load"


class State(NamedTuple):
    """What can be said about one version on the shelf."""

    entry: Entry
    loaded: bool
    reason: str
    """Why it cannot be served; empty if nothing is known against it."""


class Failure(NamedTuple):
    name: str
    version: int | None
    """None where the versions cannot even be listed."""
    reason: str


class ModelShelf:
    """Answers with loaded models. Belongs to one event loop; loading happens in one thread beside it.

    A name without a version means its newest version that loads. A broken version is tried again by `load` alone: its
    files never change. One that the system would not let load (no memory, no disk) is tried by the next request for it.
    """

    def __init__(self, repository: ModelRepository, load: Callable[[Bundle], LoadedModel], max_versions: int) -> None:
        self._repository = repository
        self._load = load
        self._max_versions = max_versions
        self._default: dict[str, LoadedModel] = {}
        self._named: OrderedDict[Entry, LoadedModel] = OrderedDict()
        self._failures: dict[Entry, str] = {}
        self._to_retry: set[Entry] = set()
        self._unreadable: dict[str, str] = {}
        self._loading: dict[Entry, asyncio.Task[LoadedModel]] = {}
        self._loader = CapacityLimiter(1)
        self._unloaded: set[str] = set()
        # One change of a model at a time: the last that came is what holds.
        self._changes: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def failures(self) -> list[Failure]:
        """What is known not to be servable."""
        unreadable = [Failure(name, None, reason) for name, reason in self._unreadable.items()]
        return [*unreadable, *(Failure(*entry, reason) for entry, reason in self._failures.items())]

    def served(self) -> list[LoadedModel]:
        """The model of each name that answers when no version is named."""
        return [self._default[name] for name in sorted(self._default)]

    def loaded(self) -> list[LoadedModel]:
        """Every version that is loaded, in order."""
        models = {Entry(model.manifest.name, model.manifest.version): model for model in self.served()} | self._named
        return [models[entry] for entry in sorted(models)]

    async def load_all(self) -> None:
        """Load the newest good version of every name; failures are recorded, not raised."""
        self._unreadable = await to_thread.run_sync(self._repository.unreadable)
        for name, reason in self._unreadable.items():
            logger.error("model %r cannot be served: %s", name, reason)
        for name in await to_thread.run_sync(self._repository.names):
            # Broken, and recorded; or gone since the names were listed.
            with contextlib.suppress(ModelUnavailableError, RepositoryError):
                await self.get(name)

    async def get(self, name: str, version: int | None = None) -> LoadedModel:
        """The version asked for, or the default one; loaded now if it is not yet.

        Raises `UnknownModelError` or `UnknownVersionError`, `UnloadedError` for a model that was unloaded, or
        `ModelUnavailableError` for a version that failed.
        """
        self._check_unloaded(name)
        default = self._default.get(name)
        if default is not None and version in (None, default.manifest.version):
            return default
        if version is None:
            return await self._newest_good(name)
        return await self._named_version(Entry(name, version))

    async def load(self, name: str) -> LoadedModel:
        """Make the newest version that is in the repository now the one that is served, and return it.

        The one that was served answers until then, and finishes what it has begun. When the newest does not load, all
        stays as it is, but that a model of which nothing was served gets its newest version that does load. Raises
        `UnknownModelError`, `BrokenBundleError` or `ModelUnavailableError`.
        """
        await to_thread.run_sync(self._repository.resolve, name)
        async with self._changes[name]:
            newest = await to_thread.run_sync(self._repository.resolve, name)
            self._to_retry.add(newest)
            try:
                model = await self._as_published(newest)
            except ModelUnavailableError:
                self._unloaded.discard(name)
                if name not in self._default:
                    with contextlib.suppress(ModelUnavailableError):
                        await self._newest_good(name)
                raise
            self._unloaded.discard(name)
            self._default[name] = model
            self._named.pop(newest, None)
            return model

    async def unload(self, name: str) -> None:
        """Serve no version of a model until it is loaded again; requests that have begun hold what they use.

        Raises `UnknownModelError`.
        """
        if name not in self._default:
            await to_thread.run_sync(self._repository.resolve, name)
        async with self._changes[name]:
            self._unloaded.add(name)
            self._default.pop(name, None)
            for entry in [entry for entry in self._named if entry.name == name]:
                del self._named[entry]

    async def states(self) -> list[State]:
        """Every version of the repository, in order."""
        self._unreadable = await to_thread.run_sync(self._repository.unreadable)
        loaded = {Entry(model.manifest.name, model.manifest.version) for model in self.loaded()}
        entries = await to_thread.run_sync(self._repository.entries)
        return [State(entry, entry in loaded, self._reason(entry)) for entry in entries]

    async def versions(self, name: str) -> Sequence[int]:
        return await to_thread.run_sync(self._repository.versions, name)

    async def _newest_good(self, name: str) -> LoadedModel:
        await to_thread.run_sync(self._repository.resolve, name)
        problems = []
        for version in reversed(await self.versions(name)):
            try:
                model = await self._loaded(Entry(name, version))
            except ModelUnavailableError as error:
                problems.append(str(error))
            else:
                self._check_unloaded(name)  # while it was loading
                return self._default.setdefault(name, model)
        raise ModelUnavailableError("; ".join(problems))

    async def _named_version(self, entry: Entry) -> LoadedModel:
        model = self._named.get(entry)
        if model is None:
            model = await self._loaded(entry)
            self._check_unloaded(entry.name)
            self._named[entry] = model
        self._named.move_to_end(entry)
        while len(self._named) > self._max_versions:
            # Requests that still run with it hold it; its memory goes with the last of them.
            self._named.popitem(last=False)
        return model

    async def _as_published(self, entry: Entry) -> LoadedModel:
        """One version as it is in the repository now: the loaded one, unless it was replaced there."""
        for model in self.loaded():
            if entry == (model.manifest.name, model.manifest.version):
                bundle = await to_thread.run_sync(lambda: self._repository.open(*entry), limiter=self._loader)
                if bundle.manifest == model.manifest:
                    return model
        return await self._loaded(entry)

    async def _loaded(self, entry: Entry) -> LoadedModel:
        """Load one version, once however many requests wait for it."""
        if entry in self._failures and entry not in self._to_retry:
            raise self._unavailable(entry)
        if entry not in self._loading:
            task = self._loading[entry] = asyncio.create_task(self._open_and_load(entry))
            task.add_done_callback(lambda task: self._finish(entry, task))
        # Shielded: a caller that goes away must not take the load from the others.
        return await asyncio.shield(self._loading[entry])

    async def _open_and_load(self, entry: Entry) -> LoadedModel:
        try:
            model = await to_thread.run_sync(lambda: self._load(self._repository.open(*entry)), limiter=self._loader)
        except (UnknownModelError, UnknownVersionError):
            raise
        # Whatever a broken bundle provokes, here or in ONNX Runtime, is a reason not to serve it, and nothing more.
        except Exception as error:
            self._to_retry.discard(entry)
            if isinstance(error, SYSTEM_ERRORS) or isinstance(error.__cause__, SYSTEM_ERRORS):
                self._to_retry.add(entry)
            self._failures[entry] = error.reason if isinstance(error, BrokenBundleError) else str(error) or repr(error)
            unavailable = self._unavailable(entry)
            logger.error("%s", unavailable)
            raise unavailable from error
        self._failures.pop(entry, None)
        self._to_retry.discard(entry)
        return model

    def _finish(self, entry: Entry, task: "asyncio.Task[LoadedModel]") -> None:
        del self._loading[entry]
        if not task.cancelled():
            task.exception()  # seen, even if every caller has gone away

    def _check_unloaded(self, name: str) -> None:
        if name in self._unloaded:
            raise UnloadedError(f"model {name!r} {UNLOADED}")

    def _reason(self, entry: Entry) -> str:
        return self._failures.get(entry, UNLOADED if entry.name in self._unloaded else "")

    def _unavailable(self, entry: Entry) -> ModelUnavailableError:
        return ModelUnavailableError(
            f"model {entry.name!r} version {entry.version} cannot be served: {self._failures[entry]}"
        )
