"""The memory of a service with all its processes, and the judgement whether it grows."""

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

PROC = Path("/proc")
# Requests before this share of all are warm-up: sessions, buffers and the heaps of threads reach their size.
WARM_UP = 0.4
MEGABYTE = 1 << 20


class Sample(NamedTuple):
    requests: int
    bytes: int


class Growth(NamedTuple):
    """From the first to the last third of what came after warm-up, each as its median."""

    before: float
    after: float
    bound: float

    @property
    def bytes(self) -> float:
        return self.after - self.before

    @property
    def within(self) -> bool:
        return self.bytes <= self.bound


def processes(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for task in PROC.glob(f"{pid}/task/*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += processes(int(child))
    return found


def used(pid: int) -> int:
    """Bytes that a process and its descendants have written, what they share counted once: proportional set sizes.

    Without what is mapped from files: how much of a library counts as theirs depends on who else has it open.
    """
    total = 0
    for process in processes(pid):
        with contextlib.suppress(OSError):  # it has ended
            for line in (PROC / str(process) / "smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1]) * 1024
    return total


def growth(samples: list[Sample], bound: float) -> Growth:
    """Raises `ValueError` if there are too few samples to say."""
    most = max((sample.requests for sample in samples), default=0)
    warm = [sample.bytes for sample in samples if sample.requests >= WARM_UP * most]
    if len(warm) < 6:
        raise ValueError(f"{len(warm)} samples after warm-up are too few to judge by: make more requests")
    third = len(warm) // 3
    return Growth(float(np.median(warm[:third])), float(np.median(warm[-third:])), bound)
