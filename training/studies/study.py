"""A grid of runs, made one by one and kept, until all are there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.sources import DataConfig
from training.outcomes import Failure
from training.progress import Bar
from training.studies.case import Case
from training.studies.crew import Crew
from training.studies.records import Records


class RunsFailedError(Failure):
    """Some runs came to no end of their own; the report says which, and why."""

    outcome, code = "runs failed", 6


@dataclass(frozen=True)
class Study:
    """The runs of a grid that have a meaning, in a folder."""

    folder: Path
    data: DataConfig
    cases: Sequence[Case]

    def run(self, jobs: int, bar: Bar) -> None:
        """Make the runs that are not finished."""
        records = Records(self.folder)
        left = [case for case in self.cases if not records.finished(case)]
        done = len(self.cases) - len(left)
        if done:
            bar.line(f"{done} of {len(self.cases)} runs are finished already")
        bar.advance(done, len(self.cases))

        def tell(case: Case, found: dict[str, Any]) -> None:
            nonlocal done
            done += 1
            bar.advance(done, len(self.cases), case.name)
            bar.line(f"{done}/{len(self.cases)} {case.name}: {outcome(found)}")

        Crew(self.folder, self.data, jobs).run(left, tell)

    def found(self) -> dict[Case, dict[str, Any]]:
        """What was kept of each run that was made."""
        records = Records(self.folder)
        kept = {case: records.find(case) for case in self.cases}
        return {case: found for case, found in kept.items() if found is not None}

    def check(self) -> None:
        """Raise `RunsFailedError` if a run came to no end of its own."""
        failed = sum("failed" in found for found in self.found().values())
        if failed:
            raise RunsFailedError(f"{failed} runs failed: the report says why; the same command tries them again")


def outcome(found: dict[str, Any]) -> str:
    """What became of a run, in a few words."""
    if "failed" in found:
        return f"failed: {found['failed']}"
    if "diverged" in found:
        return "diverged"
    return f"held-out accuracy {found['accuracy']:.2%}, {found['seconds']:.0f} s"
