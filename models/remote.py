"""A repository that is elsewhere, of which what is wanted is kept here: object stores, by any URL that fsspec knows."""

import contextlib
import hashlib
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from models.choice import CHOICE, MAX_CHOICE_BYTES, Choice
from models.disk import directories, replace, write
from models.listing import Listing, listed
from models.manifest import ModelManifest, plain_name
from models.policy import MAX_POLICY_BYTES, POLICY
from models.publishing import MANIFEST, appear, remove_stale_staging, staging
from models.repository import (
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    BrokenBundleError,
    Entry,
    ModelRepository,
    RepositoryError,
    UnreadableModelError,
    parse_manifest,
)
from models.waiting import Waiting

logger = logging.getLogger("reslens")

CHUNK_BYTES = 1 << 20
# What is asked for at a time: some stores would ask for so much that a slow line could not bring it in time.
BLOCK_BYTES = 4 << 20

Done = TypeVar("Done")

# A remote that does not answer is given up in time, and asked again later.
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}}},
}
# What is written beside the versions of a model, and how much of it is read.
NOTES = {CHOICE: MAX_CHOICE_BYTES, POLICY: MAX_POLICY_BYTES}


class RemoteRepository(ModelRepository):
    """What is served is read from the directory `root` alone, and verified there; this brings it there.

    While the remote does not answer, what was listed last counts, or at the start what is kept. It may take `seconds`
    for each listing, and for each part of a file. Credentials are those of the environment. Raises `ValueError` for a
    URL that fsspec cannot open.
    """

    def __init__(self, url: str, root: Path, max_bytes: int, seconds: float = 20.0) -> None:
        super().__init__(root)
        root.mkdir(parents=True, exist_ok=True)
        self._url = url
        self._max_bytes = max_bytes
        self._waiting = Waiting(seconds)
        self._kept = ModelRepository(root)
        self._files, self._base = _open(url)
        self._listing: Listing | None = None
        self._notes: dict[str, str] = {}
        self._problem = ""

    @property
    def problem(self) -> str:
        return self._problem

    def refresh(self) -> None:
        """List the remote again, and read what is chosen there; whatever goes wrong is the `problem`."""
        try:
            listing = self._waiting.within(self._list)
        except Exception as error:  # every kind of remote has errors of its own
            problem = f"{self._url} cannot be listed: {str(error) or repr(error)}"
            if not self._problem:
                logger.warning("%s; what is kept in %s is served", problem, self.root)
            self._problem = problem
        else:
            if self._problem:
                logger.warning("%s can be listed again", self._url)
            self._listing, self._problem = listing, ""

    def close(self) -> None:
        self._waiting.close()

    def names(self) -> list[str]:
        return self._kept.names() if self._listing is None else sorted(self._listing)

    def unreadable(self) -> dict[str, str]:
        return self._kept.unreadable() if self._listing is None else {}

    def versions(self, name: str) -> list[int]:
        if self._listing is None:
            return self._kept.versions(name)
        return sorted(self._listing[name].versions) if name in self._listing else []

    def fingerprint(self, name: str, version: int) -> str:
        kept = self._kept.fingerprint(name, version) if self._listing is None else ""
        files = self._files_of(name, version)
        return kept or ";".join(f"{file}:{info.size}:{info.mark}" for file, info in sorted(files.items()))

    def recall(self, name: str) -> None:
        if self._problem:
            raise OSError(self._problem)  # it was not there a moment ago: nobody is to wait for it again
        self._files.invalidate_cache()
        try:
            content = self._ask(lambda: self._head(f"{name}/{CHOICE}", MAX_CHOICE_BYTES + 1))
        except FileNotFoundError:
            (self.root / plain_name(name) / CHOICE).unlink(missing_ok=True)
        else:
            self._keep_note(name, CHOICE, content)

    def fetch(self, name: str, version: int) -> None:
        """Have a version here as it is there, every file with the digest that its manifest says.

        What is kept is used where it is the same, and where the remote does not answer. Raises `BrokenBundleError`, or
        OSError when it cannot be had, also when it stops in the midst of a file.
        """
        try:
            manifest = self._read(f"{name}/{version}/{MANIFEST}", MAX_MANIFEST_BYTES)
        except FileNotFoundError as error:
            raise BrokenBundleError(name, version, f"{MANIFEST} is missing at {self._url}") from error
        except OSError:
            if not self._is_kept(name, version, None):
                raise
            return
        except ValueError as error:
            raise BrokenBundleError(name, version, str(error)) from error
        if self._is_kept(name, version, manifest):
            return
        try:
            self._bring(name, version, manifest)
        except ValueError as error:
            raise BrokenBundleError(name, version, str(error)) from error

    def trim(self, served: set[Entry]) -> None:
        """Drop what was not served for longest, until what is kept is within its limit or served."""
        with contextlib.suppress(OSError):  # another process that keeps them here was faster
            kept = [(path.stat().st_mtime, entry, path) for entry, path in self._kept_versions()]
            total = sum(_bytes_of(path) for _, _, path in kept)
            for _, entry, path in sorted(kept):
                if entry in served:
                    path.touch()
                elif total > self._max_bytes:
                    total -= _bytes_of(path)
                    shutil.rmtree(path, ignore_errors=True)

    def choose(self, name: str, choice: Choice) -> None:
        content = choice.to_bytes()
        try:
            self._waiting.within(lambda: self._files.pipe_file(f"{self._base}/{name}/{CHOICE}", content))
        except Exception as error:
            raise OSError(f"{self._url} cannot be written: {str(error) or repr(error)}") from error
        self._keep_note(name, CHOICE, content)

    def publish(
        self,
        name: str,
        files: object,  # noqa: ARG002
        describe: object,  # noqa: ARG002
    ) -> int:
        raise RepositoryError(f"{name} cannot be published at {self._url}: publish in a directory, and copy it there")

    def _list(self) -> Listing:
        self._files.invalidate_cache()
        found = self._files.find(self._base, detail=True)
        listing = listed(found, self._base)
        for name, files in listing.items():
            for note, limit in NOTES.items():
                self._mirror(name, note, files.notes.get(note), limit)
        return listing

    def _mirror(self, name: str, note: str, mark: str | None, limit: int) -> None:
        """Have a note here as it is there; what is too long for one is kept as broken as it is."""
        key = f"{name}/{note}"
        if mark is None:
            (self.root / name / note).unlink(missing_ok=True)
            self._notes.pop(key, None)
        elif self._notes.get(key) != mark:
            self._keep_note(name, note, self._head(key, limit + 1))
            self._notes[key] = mark

    def _keep_note(self, name: str, note: str, content: bytes) -> None:
        home = self.root / plain_name(name)
        home.mkdir(exist_ok=True)
        replace(home / note, content)

    def _files_of(self, name: str, version: int) -> "dict[str, Any]":
        if self._listing is None or name not in self._listing:
            return {}
        return self._listing[name].versions.get(version, {})

    def _is_kept(self, name: str, version: int, manifest: bytes | None) -> bool:
        """Whether a version is here, as its manifest says, which is the one given, if it is."""
        try:
            self._kept.open(name, version)
            return manifest in (None, (self.root / name / str(version) / MANIFEST).read_bytes())
        except (RepositoryError, OSError):
            return False

    def _bring(self, name: str, version: int, content: bytes) -> None:
        manifest = parse_manifest(content)
        if (manifest.name, manifest.version) != (name, version):
            raise ValueError(f"its manifest is of model {manifest.name!r} version {manifest.version}")
        size = sum(info.size for info in self._files_of(name, version).values())
        if size > self._max_bytes:
            raise ValueError(f"it has {size:,} bytes, and {self._max_bytes:,} may be kept: raise the limit")
        home = self.root / name
        home.mkdir(exist_ok=True)
        remove_stale_staging(home)
        target = home / str(version)
        with staging(home) as staged, staging(home) as replaced:
            self._download(manifest, f"{name}/{version}", staged)
            write(staged / MANIFEST, content)
            if target.exists():
                target.rename(replaced / "version")
            appear(staged, target)

    def _download(self, manifest: ModelManifest, folder: str, staged: Path) -> None:
        for file, digest in manifest.digests.items():
            hashed, size = hashlib.sha256(), 0
            try:
                with self._opened(f"{folder}/{file}") as there, (staged / file).open("wb") as here:
                    while chunk := self._ask(partial(there.read, CHUNK_BYTES)):
                        size += len(chunk)
                        if size > MAX_FILE_BYTES:
                            raise ValueError(f"{file} has more than {MAX_FILE_BYTES:,} bytes")
                        hashed.update(chunk)
                        here.write(chunk)
            except FileNotFoundError as error:
                raise ValueError(f"{file} is missing at {self._url}") from error
            if hashed.hexdigest() != digest:
                raise ValueError(f"{file} has SHA-256 {hashed.hexdigest()}, its manifest says {digest}")

    def _opened(self, path: str) -> Any:
        return self._ask(lambda: self._files.open(f"{self._base}/{path}", "rb", block_size=BLOCK_BYTES))

    def _ask(self, work: Callable[[], Done]) -> Done:
        """What the remote answers in time; raises OSError."""
        try:
            return self._waiting.within(work)
        except OSError:
            raise
        except Exception as error:  # every kind of remote has errors of its own
            raise OSError(f"{self._url} cannot be read: {str(error) or repr(error)}") from error

    def _read(self, path: str, limit: int) -> bytes:
        """A small file of the remote; raises OSError when it cannot be had, `ValueError` when it is too long."""
        content = self._ask(lambda: self._head(path, limit + 1))
        if len(content) > limit:
            raise ValueError(f"{path.rpartition('/')[2]} has more than {limit:,} bytes")
        return content

    def _head(self, path: str, count: int) -> bytes:
        # Not by `cat_file`: not every store answers when it is asked for more bytes than there are.
        with self._files.open(f"{self._base}/{path}", "rb") as file:
            content: bytes = file.read(count)
            return content

    def _kept_versions(self) -> "list[tuple[Entry, Path]]":
        found = []
        for home in directories(self.root):
            with contextlib.suppress(UnreadableModelError):
                found += [
                    (Entry(home.name, version), home / str(version)) for version in self._kept.versions(home.name)
                ]
        return found


def _open(url: str) -> tuple[Any, str]:
    protocol, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0] or "::" in url:
        raise ValueError(f"a repository at {protocol}://… has no credentials and no chain in its URL: set them aside")
    try:
        files, base = fsspec.core.url_to_fs(url, **OPTIONS.get(protocol, {}))
    except ImportError as error:
        raise ValueError(
            f"{protocol}://… needs a package that is missing ({error}): see the extras s3 and gcs"
        ) from error
    return files, base.rstrip("/")


def _bytes_of(path: Path) -> int:
    return sum(file.lstat().st_size for file in path.iterdir() if file.is_file())
