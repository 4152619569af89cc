"""The repository that a command changes."""

from pathlib import Path

from models.repository import ModelRepository
from service.settings import Settings, own_repository


def repository_of(named: Path | None) -> ModelRepository:
    """The one that was named, or that the service reads; raises `ValueError` where it is no directory."""
    root = named or own_repository(Settings())
    if not root.is_dir():
        raise ValueError(f"repository {root} is not a directory: name one with --repository")
    return ModelRepository(root)
