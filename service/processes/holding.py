"""The folder of a service is held by its processes while they live; what is left of those that were killed goes."""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path

# Of the names of the folders, in the one for temporary files.
PREFIX = "reslens-"
# A file in each, which every process of the service has locked: the system lets go for those that are killed.
HOLDERS = "holders"


@contextlib.contextmanager
def holding(directory: Path, first: bool = False) -> Iterator[None]:
    """Hold the folder; the first to do so makes it one that can be held. Raises `OSError` if it is gone."""
    # Not by its name before it is locked: a folder without that name is nobody's to remove.
    path = directory / (f"{HOLDERS}.new" if first else HOLDERS)
    holder = os.open(path, os.O_RDWR | (os.O_CREAT if first else 0), 0o600)
    try:
        flock(holder, LOCK_SH | LOCK_NB)
        if first:
            path.rename(directory / HOLDERS)
        yield
    finally:
        os.close(holder)


def sweep(parent: Path) -> None:
    """Remove the folders of this user that no process holds any more; whatever else is there stays."""
    for directory in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # held, another's, or removed meanwhile
            _remove(directory)


def _remove(directory: Path) -> None:
    """Raises `BlockingIOError` if it is held, another `OSError` if it cannot be."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return
    holders = os.open(directory / HOLDERS, os.O_RDWR | os.O_NOFOLLOW)
    try:
        flock(holders, LOCK_EX | LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(holders)
