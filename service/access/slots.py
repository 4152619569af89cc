"""Where it is kept when each caller's bucket of tokens will be full again: in one process, or shared by several."""

import mmap
import os
import struct
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

# Callers that are remembered; of more, those that were silent longest are forgotten.
CALLERS = 65_536
# Of the shared ones, a caller may lie in any of so many neighbouring places: the least of what has to be looked at.
NEIGHBOURS = 8

# A time, as it was and as it is to be; None to leave it.
Change = Callable[[float], float | None]


class Slots(Protocol):
    """One time for each caller."""

    def update(self, caller: str, change: Change) -> None:
        """Call `change` with the caller's time, 0 if none is known, and keep what it returns. Nobody comes between."""


class OwnSlots:
    """Those of one process, used from one thread."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def update(self, caller: str, change: Change) -> None:
        time = change(self._times.get(caller, 0.0))
        if time is None:
            return
        self._times[caller] = time
        self._times.move_to_end(caller)
        if len(self._times) > CALLERS:
            self._times.popitem(last=False)


class SharedSlots:
    """Those of all processes that open the same file, each from one thread.

    A table of pairs, the caller's hash of 64 bits and its time. It is changed under a lock of the file's that belongs
    to the process: one that is killed leaves no lock behind.
    """

    _PAIR = struct.Struct("=Qd")

    def __init__(self, path: Path) -> None:
        # Not everywhere, nor are several processes.
        from fcntl import LOCK_EX, LOCK_UN, lockf

        self._lockf, self._lock, self._unlock = lockf, LOCK_EX, LOCK_UN
        size = CALLERS * self._PAIR.size
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, size)  # zeros, which are no caller's, where there was nothing
        self._table = mmap.mmap(self._file, size)

    def update(self, caller: str, change: Change) -> None:
        name = int.from_bytes(blake2b(caller.encode(), digest_size=8).digest(), "big") or 1
        length = NEIGHBOURS * self._PAIR.size
        start = name % (CALLERS // NEIGHBOURS) * length
        self._lockf(self._file, self._lock, length, start)
        try:
            offset, known = self._find(name, start)
            time = change(known)
            if time is not None:
                self._PAIR.pack_into(self._table, offset, name, time)
        finally:
            self._lockf(self._file, self._unlock, length, start)

    def close(self) -> None:
        self._table.close()
        os.close(self._file)

    def _find(self, name: int, start: int) -> tuple[int, float]:
        """Where the caller's pair is, or may be: in place of the one whose bucket was full first."""
        oldest = (float("inf"), start)
        for offset in range(start, start + NEIGHBOURS * self._PAIR.size, self._PAIR.size):
            found, time = self._PAIR.unpack_from(self._table, offset)
            if found == name:
                return offset, time
            oldest = min(oldest, (time, offset))
        return oldest[1], 0.0
