"""The shelf of published models: `<root>/<name>/<version>/{model.onnx, manifest.json, baseline.npz}`.

A version is a directory that appears by one rename and is never changed afterwards. Symbolic links below the root are
ignored, so that nothing outside it can be reached.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from models.manifest import SCHEMA_VERSION, ModelManifest, plain_name

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
# Protobuf itself cannot hold more than 2 GiB in one message.
MAX_FILE_BYTES = 2 << 30
# A staging directory that nobody has written to for this long belongs to a publisher that died.
STALE_SECONDS = 3600.0

_STAGING = ".staging-"
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class RepositoryError(ValueError):
    """Base of everything that can be wrong with a repository or a request to it."""


class UnknownModelError(RepositoryError):
    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown model {name!r}; choose from {_listing(known)}")


class UnknownVersionError(RepositoryError):
    def __init__(self, name: str, version: int | str, known: Iterable[int]) -> None:
        super().__init__(f"model {name!r} has no version {version!r}; choose from {_listing(map(str, known))}")


class BrokenBundleError(RepositoryError):
    """A version that exists but must not be used; `reason` says what is wrong with it."""

    def __init__(self, name: str, version: int, reason: str) -> None:
        super().__init__(f"model {name!r} version {version} is broken: {reason}")
        self.reason = reason


class UnreadableModelError(RepositoryError):
    """A name whose versions cannot be listed; `reason` says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the versions of model {name!r} cannot be listed: {reason}")
        self.reason = reason


class Entry(NamedTuple):
    """One version on the shelf, whether it is whole or not."""

    name: str
    version: int


@dataclass(frozen=True)
class Bundle:
    """One verified version. The bytes held here are the bytes whose digests were checked."""

    path: Path
    manifest: ModelManifest
    graph: bytes
    baseline: bytes | None


class ModelRepository:
    """Lists, verifies and publishes the versions of the models below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Names that have at least one version, in order; without those of `unreadable`."""
        return sorted(path.name for path in _directories(self.root) if self._has_versions(path.name))

    def unreadable(self) -> dict[str, str]:
        """Why the versions of some names cannot be listed."""
        reasons = {}
        for path in _directories(self.root):
            try:
                self.versions(path.name)
            except UnreadableModelError as error:
                reasons[path.name] = error.reason
        return reasons

    def versions(self, name: str) -> list[int]:
        """Versions of one model, oldest first; empty if there is no such model.

        Directories whose names are not integers without a leading zero are not versions. Raises `UnreadableModelError`
        when the system does not let them be listed.
        """
        if not _is_plain(name) or (self.root / name).is_symlink():
            return []
        try:
            return sorted(int(path.name) for path in _directories(self.root / name) if _VERSION.fullmatch(path.name))
        except FileNotFoundError:  # gone since it was seen
            return []
        except OSError as error:
            raise UnreadableModelError(name, str(error)) from error

    def entries(self) -> list[Entry]:
        """Every version of every model, in order."""
        return [Entry(name, version) for name in self.names() for version in self.versions(name)]

    def resolve(self, name: str, version: int | None = None) -> Entry:
        """Say which version is meant: the one asked for, or the latest.

        Raises `UnknownModelError` or `UnknownVersionError`.
        """
        versions = self.versions(name)
        if not versions:
            raise UnknownModelError(name, self.names())
        if version is not None and version not in versions:
            raise UnknownVersionError(name, version, versions)
        return Entry(name, version or versions[-1])

    def open(self, name: str, version: int | None = None) -> Bundle:
        """Read one version, the latest if none is named, and verify every byte of it.

        Raises `UnknownModelError`, `UnknownVersionError`, or `BrokenBundleError` with the reason.
        """
        entry = self.resolve(name, version)
        path = self.root / entry.name / str(entry.version)
        try:
            manifest = _parse_manifest(_read(path / MANIFEST, MAX_MANIFEST_BYTES))
            if (manifest.name, manifest.version) != entry:
                raise ValueError(f"its manifest is of model {manifest.name!r} version {manifest.version}")
            files = {file: _read_verified(path / file, digest) for file, digest in manifest.digests.items()}
        except (ValueError, OSError) as error:
            raise BrokenBundleError(*entry, reason=str(error)) from error
        baseline = files[manifest.baseline] if manifest.baseline else None
        return Bundle(path=path, manifest=manifest, graph=files[manifest.graph], baseline=baseline)

    def _has_versions(self, name: str) -> bool:
        try:
            return bool(self.versions(name))
        except UnreadableModelError:
            return False

    def publish(
        self, name: str, files: Mapping[str, bytes], describe: Callable[[int, dict[str, str]], ModelManifest]
    ) -> int:
        """Publish `files` as the next version of `name`, and return its number.

        `describe(version, digests)` makes the manifest; it is called again with a higher number when another publisher
        took the first one. The version becomes visible by one rename, after every byte has reached the disk.
        """
        plain_name(name)
        home = self.root / name
        if home.is_symlink():
            raise RepositoryError(f"{home} is a symbolic link: publish into the directory itself")
        home.mkdir(parents=True, exist_ok=True)
        _sync_directory(self.root)
        _remove_stale_staging(home)
        staging = home / f"{_STAGING}{secrets.token_hex(8)}"
        staging.mkdir()
        try:
            return _stage_and_rename(name, home, staging, files, describe)
        finally:
            # Gone already when the rename succeeded.
            shutil.rmtree(staging, ignore_errors=True)


def _stage_and_rename(
    name: str,
    home: Path,
    staging: Path,
    files: Mapping[str, bytes],
    describe: Callable[[int, dict[str, str]], ModelManifest],
) -> int:
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    for file, content in files.items():
        plain_name(file)
        _write(staging / file, content)
    version = _highest_number(home) + 1
    while True:
        manifest = describe(version, digests)
        if (manifest.name, manifest.version, manifest.digests) != (name, version, digests):
            raise RepositoryError(f"the manifest does not describe model {name!r} version {version} and its files")
        content = manifest.model_dump_json(indent=2).encode()
        # What cannot be read back (NaN has no JSON) is never published.
        _parse_manifest(content)
        _write(staging / MANIFEST, content)
        _sync_directory(staging)
        target = home / str(version)
        try:
            staging.rename(target)
        except OSError:
            if not target.exists():
                raise
            version = max(version, _highest_number(home)) + 1
        else:
            _sync_directory(home)
            return version


def _highest_number(home: Path) -> int:
    return max((int(path.name) for path in home.iterdir() if _VERSION.fullmatch(path.name)), default=0)


def _remove_stale_staging(home: Path) -> None:
    for path in _directories(home):
        # It may have become a version, or been swept by another publisher, since it was listed.
        with contextlib.suppress(FileNotFoundError):
            if path.name.startswith(_STAGING) and time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _parse_manifest(content: bytes) -> ModelManifest:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{MANIFEST} is not a JSON object")
    schema = fields.get("schema_version")
    if type(schema) is not int or schema != SCHEMA_VERSION:
        raise ValueError(f"{MANIFEST} has schema version {schema!r}; this program reads version {SCHEMA_VERSION}")
    try:
        return ModelManifest.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in error.errors()[:5])
        raise ValueError(f"{MANIFEST} is not valid: {problems}") from error


def _read_verified(path: Path, digest: str) -> bytes:
    content = _read(path, MAX_FILE_BYTES)
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise ValueError(f"{path.name} has SHA-256 {actual}, its manifest says {digest}")
    return content


def _read(path: Path, limit: int) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path.name} is missing" if not path.exists() else f"{path.name} is not an ordinary file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path.name} has more than {limit:,} bytes")
    return content


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make renames and new names in a directory last, where the system can (Windows cannot open directories)."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _directories(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return [entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink()]


def _is_plain(name: str) -> bool:
    try:
        plain_name(name)
    except ValueError:
        return False
    return True


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names) or "none: the repository is empty"
