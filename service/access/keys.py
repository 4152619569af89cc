"""API keys: 32 random bytes, of which only the SHA-256 is kept.

A slow hash such as scrypt protects passwords, which can be guessed. A key of 256 random bits cannot be, so one fast
hash for each request is enough, and strangers cannot keep the service busy with hashing.
"""

import hashlib
import hmac
import logging
import math
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger("reslens")

# How long a key that was taken out of the file may still be good.
CHECK_SECONDS = 1.0
_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9_.@-]{1,64})\s+sha256:(?P<digest>[0-9a-f]{64})(?:\s+rate=(?P<rate>[0-9.e+-]{1,24}))?"
)


class Key(NamedTuple):
    """Who holds a key, its SHA-256, and the requests a second it may make if not as many as others."""

    name: str
    digest: bytes
    rate: float | None = None

    def line(self) -> str:
        rate = "" if self.rate is None else f" rate={self.rate}"
        return f"{self.name} sha256:{self.digest.hex()}{rate}"


def new_key(name: str, rate: float | None = None) -> tuple[str, Key]:
    """A new secret, and what is kept of it. Raises `ValueError` if the name or the rate is not possible."""
    secret = f"rl_{secrets.token_urlsafe(32)}"
    key = Key(name, digest_of(secret.encode()), rate)
    parse_keys(key.line(), "the key")
    return secret, key


def digest_of(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def parse_keys(text: str, source: str) -> tuple[Key, ...]:
    """The keys of lines `<name> sha256:<hex> [rate=<requests a second>]`; empty lines and `#` comments are skipped."""
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        found = _LINE.fullmatch(line)
        rate = _rate(found["rate"]) if found else None
        if not found or (rate is not None and not 0 < rate < math.inf):
            # Not the line itself: it may hold a secret where its hash should be.
            raise ValueError(
                f"line {number} of {source} is not `<name> sha256:<64 hex digits> [rate=<requests a second>]`, name "
                "of letters, digits and _.@-: make one with `python -m service key NAME`"
            )
        keys.append(Key(found["name"], bytes.fromhex(found["digest"]), rate))
    return tuple(keys)


def _rate(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return math.nan


class KeyRing:
    """The keys for one purpose: those given, and those of a file, which is read again when it has changed.

    Raises `ValueError` or `OSError` if there is anything wrong with them at first. Later, a file that is missing or
    wrong is an error in the log, and the keys of before stay.
    """

    def __init__(self, given: str, file: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._given = parse_keys(given.replace(",", "\n"), "the keys in the environment")
        self._file = file
        self._clock = clock
        self._checked = clock()
        self._stamp = _stamp(file) if file else None
        self._keys = self._given + (_read(file) if file else ())

    def holder(self, digest: bytes) -> Key | None:
        """The key with this digest. Every key is compared, each in constant time."""
        if self._file:
            self._refresh(self._file)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _refresh(self, file: Path) -> None:
        now = self._clock()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        try:
            stamp = _stamp(file)
        except OSError as error:
            self._keep(None, error)
            return
        if stamp == self._stamp:
            return
        try:
            self._keys = self._given + _read(file)
        except (OSError, ValueError) as error:
            self._keep(stamp, error)
        else:
            self._stamp = stamp
            logger.info("read the keys of %s again: %d", file, len(self._keys))

    def _keep(self, stamp: tuple[int, ...] | None, error: Exception) -> None:
        if stamp != self._stamp:  # once for each change
            logger.error("the keys of before stay: %s", error)
        self._stamp = stamp


def _stamp(file: Path) -> tuple[int, ...]:
    """What changes when a file is edited or replaced, also behind a link, as Kubernetes replaces secrets."""
    state = file.stat()
    return (state.st_mtime_ns, state.st_size, state.st_ino, state.st_dev)


def _read(file: Path) -> tuple[Key, ...]:
    return parse_keys(file.read_text(encoding="utf-8"), str(file))
