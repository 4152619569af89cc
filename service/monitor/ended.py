"""The counts of processes that have ended, added up in one file: each file is read at every scrape.

The files are those of Prometheus' client, `counter_17.db` for the counters of process 17. While somebody reads them,
nothing is moved from one to another, else it would be counted twice or not at all.
"""

import logging
import struct
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

from service.monitor.processes import lives

logger = logging.getLogger("reslens")

# In place of a process id.
ALL = "ended"
# Series of these kinds can be added up; gauges end with their process.
SUMS = ("counter", "histogram")
LOCK = "lock"


@contextmanager
def unmoved(directory: Path) -> Iterator[None]:
    """Read the files meanwhile."""
    with (directory / LOCK).open("a") as lock:
        flock(lock, LOCK_SH)
        yield


def gather(directory: Path) -> bool:
    """Add the counts of all processes that have ended to one file, and remove theirs.

    False when the files are being read: try again. Raises `OSError` where there is no room.
    """
    with (directory / LOCK).open("a") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
        for kind in SUMS:
            files = [file for file in directory.glob(f"{kind}_*.db") if _has_ended(file)]
            if files:
                _add(files, directory / f"{kind}_{ALL}.db")
        for file in filter(_has_ended, directory.glob("gauge_*.db")):
            file.unlink(missing_ok=True)
    return True


def _has_ended(file: Path) -> bool:
    owner = file.stem.rpartition("_")[2]
    return owner != ALL and not lives(int(owner))


def _add(files: list[Path], total: Path) -> None:
    values: defaultdict[str, float] = defaultdict(float)
    for file in (total, *files):
        for key, value in _read(file).items():
            values[key] += value
    # In one step, and never by writing to mapped memory, which would end this process where a disk is full.
    new = total.with_suffix(".new")
    new.write_bytes(_packed(values))
    new.replace(total)
    for file in files:
        file.unlink()


def _read(file: Path) -> dict[str, float]:
    """What a process had counted when it ended: nothing if that was before its first count."""
    try:
        entries = MmapedDict.read_all_values_from_file(file)  # type: ignore[no-untyped-call]
        return {key: value for key, value, *_ in entries}
    except FileNotFoundError:
        return {}
    except (struct.error, RuntimeError, UnicodeDecodeError):
        logger.warning("the counts of a process that ended are lost: %s cannot be read", file.name)
        return {}


def _packed(values: dict[str, float]) -> bytes:
    """As `MmapedDict` keeps them: the length of all, and of each the length of its key, the key, value and time."""
    entries = bytearray()
    for key, value in values.items():
        text = key.encode()
        padded = text + b" " * (8 - (len(text) + 4) % 8)
        entries += struct.pack(f"i{len(padded)}sdd", len(text), padded, value, 0.0)
    return struct.pack("ii", 8 + len(entries), 0) + entries
