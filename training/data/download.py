"""Files of published data sets: found where the user has them, or downloaded once; taken only with the right digest."""

import logging
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from filelock import FileLock

from training.data.reading import FULL, Advance

SECONDS = 30
"""Without a byte, after which a download is given up."""
CHUNK = 1 << 16


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
    if not path.is_file():
        raise ValueError(f"{path} is no file: remove it, and that of {file.url} will be downloaded")
    found = pooch.file_hash(path, alg="sha256")
    if found != file.sha256:
        raise ValueError(
            f"{path} has the SHA-256 {found}, that of {file.url} is {file.sha256}: it is damaged or another file; "
            "remove it, and it will be downloaded"
        )
    return path


def _download(file: RemoteFile, folder: Path, advance: Advance) -> None:
    def write(url: str, path: str, _: object) -> None:
        # What a server compresses on its own account has another digest.
        head = {"Accept-Encoding": "identity"}
        with requests.get(url, stream=True, timeout=SECONDS, headers=head) as answer, Path(path).open("wb") as content:
            answer.raise_for_status()
            done = 0
            for chunk in answer.iter_content(CHUNK):
                done += len(chunk)
                if done > file.size:
                    raise ValueError(f"it is longer than {file.size:,} bytes")
                content.write(chunk)
                advance(done, file.size)

    pooch.get_logger().setLevel(logging.WARNING)
    pooch.retrieve(file.url, f"sha256:{file.sha256}", file.name, folder, downloader=write)


def _reason(error: Exception) -> str:
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection ended before the file did"
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return "the server cannot be reached"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code}"
    if isinstance(error, ValueError) and "known hash" in str(error):
        return "what came has another digest"
    if isinstance(error, OSError) and error.errno in FULL:
        return "the disk has no room for it"
    return str(error)
