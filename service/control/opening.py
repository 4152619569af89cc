"""The repository and the control that the settings ask for."""

from models.repository import ModelRepository
from service.control.control import Control
from service.errors import StartupError
from service.settings import Settings


def repository_of(settings: Settings) -> ModelRepository:
    """The repository, read from this machine alone; raises `StartupError` where it cannot be."""
    directory = settings.model_directory
    if not directory.is_dir():
        raise StartupError(
            f"model repository {directory} is not a directory: create it, or set RESLENS_MODEL_REPOSITORY"
        )
    repository = ModelRepository(directory)
    try:
        repository.names()
    except OSError as error:
        raise StartupError(f"model repository {directory} cannot be read: {error}") from error
    return repository


def control_of(settings: Settings) -> Control:
    """The one control of a service, which no replica has joined yet; raises `StartupError`."""
    repository = repository_of(settings)
    poll_seconds = settings.poll_seconds if settings.model_control == "poll" else None
    return Control(repository, settings.version_policies, settings.max_versions, poll_seconds)
