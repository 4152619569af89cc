"""The repository and the control that the settings ask for."""

from models.repository import ModelRepository
from service.control.control import Control
from service.control.course import LastUsed
from service.errors import StartupError
from service.settings import Settings


def repository_of(settings: Settings) -> ModelRepository:
    """What is on this machine, read only from here; raises `StartupError` where it cannot be."""
    directory = settings.model_directory
    try:
        if isinstance(settings.model_repository, str):
            directory.mkdir(parents=True, exist_ok=True)
        if not directory.is_dir():
            raise StartupError(
                f"model repository {directory} is not a directory: create it, or set RESLENS_MODEL_REPOSITORY"
            )
        repository = ModelRepository(directory)
        repository.names()
    except OSError as error:
        raise StartupError(f"model repository {directory} cannot be read: {error}") from error
    return repository


def source_of(settings: Settings) -> ModelRepository:
    """Where versions come from: this machine, or a URL; raises `StartupError` where it cannot be opened."""
    local = repository_of(settings)
    if not isinstance(settings.model_repository, str):
        return local
    # Those whose models are here need not wait for its import.
    from models.remote import RemoteRepository

    try:
        return RemoteRepository(
            settings.model_repository, local.root, settings.cache_megabytes * 1_000_000, settings.remote_seconds
        )
    except ValueError as error:
        raise StartupError(f"{error} (RESLENS_MODEL_REPOSITORY)") from error


def control_of(settings: Settings, last_used: LastUsed) -> Control:
    """The one control of a service, which no replica has joined yet; raises `StartupError`."""
    poll_seconds = settings.poll_seconds if settings.model_control == "poll" else None
    return Control(source_of(settings), settings.version_policies, settings.max_versions, poll_seconds, last_used)
