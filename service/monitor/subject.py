"""What is watched: one published version."""

from typing import Protocol

from models.manifest import ModelManifest
from service.runtime.reference import Reference


class Subject(Protocol):
    """A model as its statistics are to be read; whoever reads them need not be able to run it."""

    @property
    def manifest(self) -> ModelManifest: ...

    @property
    def reference(self) -> Reference: ...
