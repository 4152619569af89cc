"""Residual blocks that pass on what they were given."""

from collections.abc import Iterator

import numpy as np

from models.diagnosis.case import Case, joined, share
from models.diagnosis.finding import Finding
from models.diagnosis.intervals import Z
from models.statistics.scalars import RESIDUAL_SHARE


def branch_ignored(case: Case) -> Iterator[Finding]:
    """Blocks whose residual share ‖y − s‖/‖s‖ is below the limit and below a quarter of the baseline's.

    Neighbours are one finding, of the first of them. Depth alone makes shares smaller, by about √depth.
    """
    names = [block.name for block in case.manifest.blocks]
    both = [case.scalar(name, RESIDUAL_SHARE) for name in names]
    now, before = (np.array([pair[k].mean[0] for pair in both]) for k in (0, 1))
    counts = np.array([pair[0].count[0] for pair in both])
    limits = case.thresholds
    ignored = (now < limits.residual_share) & (now < limits.residual_loss * before) & (counts * 2 >= case.images)
    for run in _runs(np.flatnonzero(ignored).tolist()):
        largest = max(run, key=lambda index: float(now[index]))
        variance = both[largest][0].variance[0] / counts[largest]
        half = Z * float(np.sqrt(np.nan_to_num(variance)))
        value, known = float(now[largest]), float(before[largest])
        yield Finding(
            rule="branch_ignored",
            part=names[run[0]],
            severity="warning",
            cause=f"{_which(run)} ({joined(names[index] for index in run)}) "
            f"{'add' if len(run) > 1 else 'adds'} almost nothing: at most {share(value)} of the shortcut "
            f"(baseline {share(known)})",
            value=value,
            baseline=known,
            interval=(max(0.0, value - half), value + half),
            images=case.images,
            evidence={"blocks": [index + 1 for index in run], "names": ", ".join(names[index] for index in run)},
        )


def _which(run: list[int]) -> str:
    """ "block 4" or "blocks 4–5", counted from 1."""
    return f"block {run[0] + 1}" if len(run) == 1 else f"blocks {run[0] + 1}–{run[-1] + 1}"


def _runs(indices: list[int]) -> Iterator[list[int]]:
    """Consecutive numbers together."""
    run: list[int] = []
    for index in indices:
        if run and index != run[-1] + 1:
            yield run
            run = []
        run.append(index)
    if run:
        yield run
