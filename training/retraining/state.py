"""How far a job has come, on disk: whatever moment it is killed at, what was done stays done."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.retraining.outcome import BusyError

FORMAT = 1


@dataclass
class JobState:
    """What was asked for, and what each step that is over found."""

    options: dict[str, Any]
    done: dict[str, Any] = field(default_factory=dict)
    """By step, in order: numbers and texts."""
    outcome: str | None = None
    """None while the job is not over."""


class JobFolder:
    """The folder of one job: `state.json`, the run and the candidate, and in `before/` what became of earlier jobs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run(self) -> Path:
        """Where the challenger is trained."""
        return self.path / "run"

    @property
    def candidate(self) -> Path:
        """The files that are judged, and published as they are."""
        return self.path / "candidate"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes away; raises `BusyError` when one is at it. The system ends it with the process."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(f"another process is at the job in {self.path}: wait for it") from error
            yield

    def read(self) -> JobState | None:
        """The newest state; None where there is none. Raises `ValueError` for a file that is none."""
        path = self.path / "state.json"
        if not path.exists():
            return None
        try:
            stored = json.loads(path.read_text())
            if stored.pop("format") != FORMAT:
                raise ValueError("it is of another version of this program")
            return JobState(**stored)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} cannot be read ({error}): start anew with --fresh") from error

    def write(self, state: JobState) -> None:
        """Keep a state: after this it is the newest one, whatever happens."""
        content = {"format": FORMAT, "options": state.options, "done": state.done, "outcome": state.outcome}
        write_json(self.path / "state.json", content)

    def start(self, options: dict[str, Any]) -> JobState:
        """Begin a new job; what became of the one before is kept, its weights are not."""
        path = self.path / "state.json"
        if path.exists():
            before = self.path / "before"
            before.mkdir(exist_ok=True)
            number = max((int(file.stem) for file in before.glob("*.json") if file.stem.isdecimal()), default=0) + 1
            path.replace(before / f"{number}.json")
        for folder in (self.run, self.candidate):
            shutil.rmtree(folder, ignore_errors=True)
        state = JobState(options)
        self.write(state)
        return state


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """So that `path` is always the old or the new whole file."""
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
