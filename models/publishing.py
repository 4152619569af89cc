"""A version is made beside the others and becomes visible by one rename."""

import contextlib
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from models.disk import directories, sync_directory, write
from models.manifest import plain_name

MANIFEST = "manifest.json"
# A staging directory that nobody has written to for this long belongs to a publisher that died.
STALE_SECONDS = 3600.0
VERSION = re.compile(r"[1-9][0-9]{0,8}")

_STAGING = ".staging-"


def stage_and_rename(home: Path, files: Mapping[str, bytes], manifest: Callable[[int], bytes], least: int) -> int:
    """Put `files`, and the manifest that is made for its number, into `home` as its next version; returns the number.

    That is `least` at least. `manifest` is called again with a higher one when another publisher took the first.
    """
    remove_stale_staging(home)
    with staging(home) as staged:
        for file, content in files.items():
            write(staged / plain_name(file), content)
        version = max(_highest_number(home) + 1, least)
        while True:
            write(staged / MANIFEST, manifest(version))
            if appear(staged, home / str(version)):
                return version
            version = max(version, _highest_number(home)) + 1


@contextlib.contextmanager
def staging(home: Path) -> Iterator[Path]:
    """A directory beside the versions, gone in the end unless it became one."""
    staged = home / f"{_STAGING}{secrets.token_hex(8)}"
    staged.mkdir()
    try:
        yield staged
    finally:
        # Gone already when the rename succeeded.
        shutil.rmtree(staged, ignore_errors=True)


def appear(staged: Path, target: Path) -> bool:
    """Make a staged directory a version, after every byte has reached the disk; False where there is one already."""
    sync_directory(staged)
    try:
        staged.rename(target)
    except OSError:
        if not target.exists():
            raise
        return False
    sync_directory(target.parent)
    return True


def _highest_number(home: Path) -> int:
    return max((int(path.name) for path in home.iterdir() if VERSION.fullmatch(path.name)), default=0)


def remove_stale_staging(home: Path) -> None:
    for path in directories(home):
        # It may have become a version, or been swept by another publisher, since it was listed.
        with contextlib.suppress(FileNotFoundError):
            if path.name.startswith(_STAGING) and time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
