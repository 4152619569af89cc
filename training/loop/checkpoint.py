"""Training state on disk: written atomically, two of it kept, loaded without executing anything."""

import errno
import os
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.outcomes import UnwritableError

# What file systems say that know no second names of a file: network shares, FAT, object stores.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Saving:
    """How often the state is saved, beside the end of each epoch."""

    checkpoint_seconds: float = 300.0
    """Seconds after which the state is saved again, within an epoch too; 0: at the ends of epochs alone."""
    checkpoint_steps: int = 0
    """Steps after which it is saved again; 0: however many."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_seconds", "checkpoint_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed: use 0 or more")


def save_checkpoint(path: Path, state: dict[str, Any], keep: bool = False) -> None:
    """Write `state` (tensors, numbers, strings, containers) so that `path` is always the old or the new whole file.

    With `keep` what `path` was is found at `previous(path)` after. Raises `UnwritableError` when there is no room; what
    was there before is there still.
    """
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            _keep(path)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        # PyTorch's writer wraps what the system says.
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise UnwritableError(
            f"checkpoint {path} cannot be written ({reason}): make room, then go on with --resume; "
            "the one before is whole"
            if path.exists()
            else f"checkpoint {path} cannot be written ({reason}): make room"
        ) from error


def _keep(path: Path) -> None:
    # A second name first, so that there is a file at `path` at every moment.
    second = path.with_suffix(".second")
    second.unlink(missing_ok=True)
    try:
        os.link(path, second)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # For a moment there is none but the one before, which `load_newest` finds.
        path.replace(previous(path))
        return
    second.replace(previous(path))


def previous(path: Path) -> Path:
    """Where the checkpoint before that at `path` is."""
    return path.with_suffix(f".previous{path.suffix}")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, on the CPU; raises `ValueError` for a missing or unreadable file."""
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}: train first, or give the folder of a run")
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.load ignores the check sums that torch.save wrote.
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises many types for a damaged file; for the user they are one: this file cannot be used.
        raise ValueError(
            f"checkpoint {path} cannot be read ({type(error).__name__}): remove it and train again"
        ) from error
    return state


def any_checkpoint(path: Path) -> bool:
    """Whether there is one at `path`, or the one before it."""
    return path.exists() or previous(path).exists()


def load_newest(path: Path) -> tuple[dict[str, Any], str]:
    """The checkpoint at `path`, or the one before it where that is gone or unreadable, and in words if it was so."""
    try:
        return load_checkpoint(path), ""
    except ValueError as error:
        before = previous(path)
        if not before.is_file():
            raise
        return load_checkpoint(before), f"{error}; going on from {before.name}, which was written before it"
