"""Training state on disk: written atomically, loaded without executing anything."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, containers) so that `path` is always the old or the new whole file."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


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
