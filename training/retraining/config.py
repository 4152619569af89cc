"""Everything that determines a retraining job."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.data.sources import DataConfig
from training.recipes.fine_tune import fine_tune
from training.recipes.recipe import Recipe
from training.retraining.bounds import Bounds
from training.retraining.canary import Watching


@dataclass(frozen=True)
class JobConfig:
    """What a job is asked; a job that was killed goes on only with the same."""

    name: str
    """Of the model."""
    new: DataConfig
    """To learn from."""
    old: DataConfig | None = None
    """What the champion learned from, to be judged by too."""
    replay: float = 0.0
    """Old training images for each new one, as far as there are so many."""
    recipe: Recipe = field(default_factory=fine_tune)
    bounds: Bounds = field(default_factory=Bounds)
    watching: Watching = field(default_factory=Watching)
    run: Path | None = None
    """The run that the champion was published from; its weights are read from its graph if not given."""
    canary: str = "canary"
    """Label of the version that is tried."""
    stable: str = "stable"
    """Label of the version that is served."""

    def __post_init__(self) -> None:
        if not 0 <= self.replay < float("inf"):
            raise ValueError(f"replay={self.replay} is not allowed: use a finite number, 0 or more")
        if self.replay and self.old is None:
            raise ValueError(f"--replay {self.replay} needs --old: the data that the model was trained on before")
        if self.canary == self.stable:
            raise ValueError(f"both labels are {self.stable!r}: give two")

    def options(self) -> dict[str, Any]:
        """As JSON has it."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
