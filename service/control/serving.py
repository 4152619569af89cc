"""What is decided about models, as it travels between processes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

# Among the failures of a model, what is wrong with the model itself and not with a version.
WHOLE = 0


class Serving(BaseModel):
    """What is served of one model."""

    model_config = ConfigDict(frozen=True)

    name: str
    versions: tuple[int, ...] = ()
    """Those that are loaded and warmed, in order."""
    default: int | None = None
    """The one that answers where none is named."""
    labels: dict[str, int] = {}
    """A label may be of a version that could not be loaded."""
    shares: dict[str, float] = {}
    """By label, the percentage of the requests that name no version which its version answers, if it is loaded."""
    withheld: tuple[int, ...] = ()
    """Those that are served by default only once they are pinned."""
    loaded: bool = False
    """False for a model that was unloaded, and for one that is not in the repository any more."""
    failures: dict[int, str] = {}
    """Why versions cannot be served, and under `WHOLE` what is wrong with all of the model."""


class State(BaseModel):
    """What can be said about one version in the repository."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int
    """`WHOLE` where the versions cannot be listed, or the policy or the labels cannot be read."""
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str
    """Why it cannot be served, or why its files cannot be loaded again; empty if nothing is known against it."""
