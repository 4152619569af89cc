"""Files that are there as a whole or not at all, and reads that end."""

import os
import secrets
from pathlib import Path


def read(path: Path, limit: int) -> bytes:
    """The bytes of an ordinary file; raises `ValueError` where it is none, or longer than `limit`."""
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path.name} is missing" if not path.exists() else f"{path.name} is not an ordinary file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path.name} has more than {limit:,} bytes")
    return content


def write(path: Path, content: bytes) -> None:
    """Write a file whose bytes have reached the disk when this returns."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Give a file other content by one rename: whoever reads it sees the one or the other."""
    staged = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        write(staged, content)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and new names in a directory last, where the system can (Windows cannot open directories)."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def directories(path: Path) -> list[Path]:
    """The directories in a directory, without symbolic links; none if it is none itself."""
    if not path.is_dir():
        return []
    return [entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink()]
