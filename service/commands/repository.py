"""The repository that a command changes."""

from pathlib import Path

from models.repository import ModelRepository
from service.control.opening import source_of
from service.errors import StartupError
from service.settings import Settings, own_repository


def repository_of(named: Path | None) -> ModelRepository:
    """The directory that was named, or the one that the service reads; raises `ValueError` where there is none."""
    root = named or own_repository(Settings())
    if not root.is_dir():
        raise ValueError(f"repository {root} is not a directory: name one with --repository")
    return ModelRepository(root)


def choosing_in(named: Path | None) -> ModelRepository:
    """The same, or what lies at a URL; raises `ValueError` where it does not answer."""
    if named is not None:
        return repository_of(named)
    try:
        repository = source_of(Settings())
    except StartupError as error:
        raise ValueError(str(error)) from error
    repository.refresh()
    if repository.problem:
        raise ValueError(repository.problem)
    return repository
