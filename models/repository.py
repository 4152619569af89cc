"""The shelf of published models: `<root>/<name>/<version>/{model.onnx, manifest.json, baseline.npz}`.

A version is a directory that appears by one rename and is never changed afterwards. Symbolic links below the root are
ignored, so that nothing outside it can be reached.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from models.choice import CHOICE, MAX_CHOICE_BYTES, Choice, parse_choice
from models.disk import directories, read, replace, sync_directory
from models.manifest import SCHEMA_VERSION, ModelManifest, plain_name
from models.policy import MAX_POLICY_BYTES, POLICY, VersionPolicy, parse_policy
from models.publishing import MANIFEST, VERSION, stage_and_rename

MAX_MANIFEST_BYTES = 4 << 20
# Protobuf itself cannot hold more than 2 GiB in one message.
MAX_FILE_BYTES = 2 << 30


class RepositoryError(ValueError):
    """Base of everything that can be wrong with a repository or a request to it."""


class UnknownModelError(RepositoryError):
    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown model {name!r}; choose from {_listing(known)}")


class UnknownVersionError(RepositoryError):
    def __init__(self, name: str, version: int | str, known: Iterable[int], labels: Iterable[str] = ()) -> None:
        choices = _listing([*map(str, known), *labels])
        super().__init__(f"model {name!r} has no version {version!r}; choose from {choices}")


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
    half: bytes | None = None
    """The graph in half precision."""
    sample: bytes | None = None
    """The parity sample."""


class ModelRepository:
    """Lists, verifies and publishes the versions of the models below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Names that have at least one version, in order; without those of `unreadable`."""
        return sorted(path.name for path in directories(self.root) if self._has_versions(path.name))

    def unreadable(self) -> dict[str, str]:
        """Why the versions of some names cannot be listed."""
        reasons = {}
        for path in directories(self.root):
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
            return sorted(int(path.name) for path in directories(self.root / name) if VERSION.fullmatch(path.name))
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
            manifest = parse_manifest(read(path / MANIFEST, MAX_MANIFEST_BYTES))
            if (manifest.name, manifest.version) != entry:
                raise ValueError(f"its manifest is of model {manifest.name!r} version {manifest.version}")
            files = {file: _read_verified(path / file, digest) for file, digest in manifest.digests.items()}
        except (ValueError, OSError) as error:
            raise BrokenBundleError(*entry, reason=str(error)) from error
        baseline = files[manifest.baseline] if manifest.baseline else None
        half = files[manifest.half.graph] if manifest.half else None
        sample = files[manifest.sample] if manifest.sample else None
        return Bundle(path, manifest, files[manifest.graph], baseline, half, sample)

    def fingerprint(self, name: str, version: int) -> str:
        """Changes when a file of a version does, as far as names, sizes and times tell; empty where there is none."""
        try:
            files = sorted((self.root / name / str(version)).iterdir())
            stats = [(file.name, file.lstat()) for file in files]
        except OSError:
            return ""
        return ";".join(f"{file}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}" for file, stat in stats)

    def choice(self, name: str) -> Choice:
        """What was chosen among the versions; raises `ValueError` where that cannot be read."""
        path = self.root / name / CHOICE
        content = _read_if_there(path, MAX_CHOICE_BYTES)
        return Choice() if content is None else parse_choice(content)

    def choose(self, name: str, choice: Choice) -> None:
        """Keep a choice, atomically; raises `OSError` where nothing can be written."""
        replace(self.root / name / CHOICE, choice.to_bytes())

    def policy(self, name: str) -> VersionPolicy | None:
        """What the model's own folder says of its versions; raises `ValueError` where that cannot be read."""
        path = self.root / name / POLICY
        content = _read_if_there(path, MAX_POLICY_BYTES)
        return None if content is None else parse_policy(content)

    def refresh(self) -> None:
        """Look again at where the versions come from, if that is elsewhere."""

    def recall(self, name: str) -> None:
        """Read again what is chosen of a model, if that is elsewhere; raises OSError where it cannot be had."""

    def fetch(self, name: str, version: int) -> None:
        """Have the files of a version here, if they come from elsewhere."""

    def trim(self, served: set[Entry]) -> None:
        """Drop what is kept here of what is elsewhere, but for what is served, if it is too much."""

    def close(self) -> None:
        """Wait no longer for what is elsewhere: whoever does gets an `OSError`."""

    @property
    def problem(self) -> str:
        """Why it cannot be reached where the versions come from; empty if it can."""
        return "" if self.root.is_dir() else f"{self.root} is not a directory"

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
        sync_directory(self.root)
        digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}

        def manifest(version: int) -> bytes:
            described = describe(version, digests)
            if (described.name, described.version, described.digests) != (name, version, digests):
                raise RepositoryError(f"the manifest does not describe model {name!r} version {version} and its files")
            content = described.model_dump_json(indent=2).encode()
            # What cannot be read back (NaN has no JSON) is never published.
            parse_manifest(content)
            return content

        return stage_and_rename(home, files, manifest, self._next_number(name))

    def _next_number(self, name: str) -> int:
        try:
            return self.choice(name).next_number(self.versions(name))
        except ValueError:  # what cannot be read withholds nothing
            return 1

    def _has_versions(self, name: str) -> bool:
        try:
            return bool(self.versions(name))
        except UnreadableModelError:
            return False


def parse_manifest(content: bytes) -> ModelManifest:
    """Raises `ValueError` where it is none that this program reads."""
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
    content = read(path, MAX_FILE_BYTES)
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise ValueError(f"{path.name} has SHA-256 {actual}, its manifest says {digest}")
    return content


def _read_if_there(path: Path, limit: int) -> bytes | None:
    try:
        return _read_file(path, limit) if path.exists() or path.is_symlink() else None
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from error


def _read_file(path: Path, limit: int) -> bytes:
    try:
        return read(path, limit)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def _is_plain(name: str) -> bool:
    try:
        plain_name(name)
    except ValueError:
        return False
    return True


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names) or "none: the repository is empty"
