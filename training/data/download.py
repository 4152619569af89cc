"""Files of published data sets: found where the user has them, or downloaded once; taken only with the right digest."""

import logging
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from filelock import FileLock

from training.data.reading import Advance

SECONDS = 30
"""Without a byte, after which a download is given up."""


@dataclass(frozen=True)
class RemoteFile:
    """One file as its authors publish it."""

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def cache() -> Path:
    """Where downloads are kept where no folder is named: `$XDG_CACHE_HOME/reslens`, or what the system has for it."""
    return Path(pooch.os_cache("reslens"))


def fetch(file: RemoteFile, folder: Path, advance: Advance) -> Path:
    """The file in `folder`, downloaded if it is not there; of several processes one downloads.

    Raises `ValueError`, naming file, address, digest and where to put it, when it cannot be had or is another one.
    """
    path = folder / file.name
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{file.name}.lock"):
                if not path.exists():
                    _download(file, folder, advance)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{file.name} could not be downloaded from {file.url} ({_reason(error)}): get it elsewhere "
                f"({file.size:,} bytes, SHA-256 {file.sha256}); put it into {folder}, or give its folder as --data-dir"
            ) from error
    found = pooch.file_hash(path, alg="sha256")
    if found != file.sha256:
        raise ValueError(
            f"{path} has the SHA-256 {found}, that of {file.url} is {file.sha256}: it is damaged or another file; "
            "remove it, and it will be downloaded"
        )
    return path


class _Meter:
    """What pooch tells of a download; ends one that is longer than it may be."""

    def __init__(self, file: RemoteFile, advance: Advance) -> None:
        self.total = 0
        self._size, self._advance, self._done = file.size, advance, 0

    def update(self, count: int) -> None:
        # A whole chunk is told where less came.
        if self._done > self._size:
            raise ValueError(f"it is longer than {self._size:,} bytes")
        self._done += count
        self._advance(min(self._done, self._size), self._size)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass


def _download(file: RemoteFile, folder: Path, advance: Advance) -> None:
    pooch.get_logger().setLevel(logging.WARNING)
    # What a server compresses on its own account has another digest.
    downloader = pooch.HTTPDownloader(
        progressbar=_Meter(file, advance), timeout=SECONDS, headers={"Accept-Encoding": "identity"}
    )
    pooch.retrieve(file.url, f"sha256:{file.sha256}", file.name, folder, downloader=downloader)


def _reason(error: Exception) -> str:
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection ended before the file did"
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return "the server cannot be reached"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code}"
    if isinstance(error, ValueError) and "known hash" in str(error):
        return "what came has another digest"
    return str(error)
