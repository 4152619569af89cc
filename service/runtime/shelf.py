"""The models that this process has loaded: the replica of the control that is beside its sessions."""

from collections.abc import Callable
from typing import NamedTuple

from anyio import CapacityLimiter, to_thread

from models.repository import BrokenBundleError, Bundle, Entry, ModelRepository
from service.control.serving import WHOLE, Serving
from service.errors import LoadRefusedError, ModelUnavailableError
from service.runtime.failures import is_out_of_memory
from service.runtime.model import LoadedModel
from service.runtime.parity import check_sample
from service.runtime.shares import Shares

SYSTEM_ERRORS = (OSError, MemoryError)


class Failure(NamedTuple):
    name: str
    version: int | None
    """None where it is not one version that is wrong: they cannot be listed, or the policy or labels not be read."""
    reason: str


class ModelShelf:
    """Answers with loaded models. Belongs to one event loop; loading happens in one thread beside it."""

    def __init__(self, repository: ModelRepository, load: Callable[[Bundle], LoadedModel]) -> None:
        self._repository = repository
        self._load = load
        self._servings: dict[str, Serving] = {}
        self._default: dict[str, LoadedModel] = {}
        self.shares: dict[str, Shares] = {}
        """By model, where versions have a share of the requests that name none."""
        self._models: dict[Entry, LoadedModel] = {}
        self._prepared: dict[Entry, LoadedModel] = {}
        self._loader = CapacityLimiter(1)

    @property
    def failures(self) -> list[Failure]:
        """What is known not to be servable."""
        return [
            Failure(name, None if version == WHOLE else version, serving.failures[version])
            for name, serving in sorted(self._servings.items())
            for version in sorted(serving.failures)
        ]

    def served(self) -> list[LoadedModel]:
        """The model of each name that answers when no version is named."""
        return [self._default[name] for name in sorted(self._default)]

    def loaded(self) -> list[LoadedModel]:
        """Every version that is served, in order."""
        return [self._models[entry] for entry in sorted(self._models)]

    def serving(self, name: str) -> Serving:
        """What is served of a model."""
        return self._servings.get(name) or Serving(name=name)

    def find(self, name: str, version: int | None = None) -> LoadedModel | None:
        """A version that is served, or the default one; None where it is not."""
        return self._default.get(name) if version is None else self._models.get(Entry(name, version))

    async def prepare(self, name: str, version: int) -> None:
        """Load a version as it is in the repository now: not again where that is what is served.

        Raises `ModelUnavailableError`; `LoadRefusedError` where the same files may load another time.
        """
        entry = Entry(name, version)
        loaded = self._prepared.get(entry) or self._models.get(entry)
        try:
            self._prepared[entry] = await to_thread.run_sync(self._as_published, entry, loaded, limiter=self._loader)
        # Whatever a broken bundle provokes, here or in ONNX Runtime, is a reason not to serve it, and nothing more.
        except Exception as error:
            reason = error.reason if isinstance(error, BrokenBundleError) else str(error) or repr(error)
            raise (LoadRefusedError if _says_nothing(error) else ModelUnavailableError)(reason) from error

    async def serve(self, serving: Serving) -> None:
        """Serve these versions from now on, and let go of all others; requests that hold one keep it until they end."""
        name = serving.name
        entries = [Entry(name, version) for version in serving.versions]
        models = {entry: self._prepared.get(entry) or self._models[entry] for entry in entries}
        for shelf in (self._models, self._prepared):
            for entry in [entry for entry in shelf if entry.name == name]:
                del shelf[entry]
        self._models.update(models)
        self._servings[name] = serving
        self._default.pop(name, None)
        if serving.default is not None:
            self._default[name] = models[Entry(name, serving.default)]
        self.shares.pop(name, None)
        if (shares := Shares.of(serving)) is not None:
            self.shares[name] = shares

    def dismiss(self, reason: str) -> None:
        raise AssertionError(f"the only replica cannot have come later than others: {reason}")

    def _as_published(self, entry: Entry, loaded: LoadedModel | None) -> LoadedModel:
        bundle = self._repository.open(*entry)
        if loaded is not None and bundle.manifest == loaded.manifest:
            return loaded
        model = self._load(bundle)
        check_sample(bundle, model)
        return model


def _says_nothing(error: Exception) -> bool:
    """Whether an error says nothing about the bundle: the system was to blame, or a device whose memory others have."""
    system = isinstance(error, SYSTEM_ERRORS) or isinstance(error.__cause__, SYSTEM_ERRORS)
    return system or is_out_of_memory(error)
