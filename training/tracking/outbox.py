"""What is to be told of a run, in its folder: all of it, in order, and how far it was sent."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]


class Outbox:
    """`points.jsonl` of a folder: lines of JSON that are only ever added to.

    - `{"begin": ms, "name": …, "parameters": {…}, "tags": {…}}`: the run begins, or goes on;
    - `{"of": series, "step": …, "time": ms, "values": {…}}`: points of one step;
    - `{"tags": {…}}`;
    - `{"end": status, "time": ms, "artifacts": [paths]}`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "points.jsonl"

    def repair(self) -> None:
        """Make the folder, and cut off what a process that was killed left of its last line."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)

    def add(self, line: Line) -> None:
        """Put it behind the others, whole or, where an `OSError` is raised, not at all."""
        content = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        with self.path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            if file.write(content) != len(content):
                file.truncate(before)
                raise OSError(f"no room for {self.path}")

    def waiting(self, position: int) -> int:
        """How many points there are behind a position."""
        return sum(len(line["values"]) for line, _ in self.after(position) if "of" in line)

    @property
    def size(self) -> int:
        """The position behind what is there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def after(self, position: int, end: float = math.inf) -> Iterator[tuple[Line, int]]:
        """Whole lines from a position in the file to another, each with the position behind it."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(position)
            for content in file:
                position += len(content)
                if not content.endswith(b"\n") or position > end:
                    return
                yield json.loads(content), position


@dataclass(frozen=True)
class Sent:
    """How far an outbox was sent, and where to."""

    store: str = ""
    """Its address, without what is secret of it, and the experiment."""
    run: str = ""
    """What the store calls the run."""
    position: int = 0
    lost: int = 0
    """Points that the store refused."""

    @classmethod
    def read(cls, folder: Path) -> "Sent":
        """As it was written last; nothing was sent where that cannot be read."""
        try:
            return cls(**json.loads((folder / "sent.json").read_text()))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        """The old or the new one, whole."""
        partial = folder / "sent.partial"
        partial.write_text(json.dumps(asdict(self)) + "\n")
        partial.replace(folder / "sent.json")


def newest(lines: Iterable[Line]) -> dict[str, int]:
    """The last step of each series."""
    found: dict[str, int] = {}
    for line in lines:
        if "of" in line:
            found[line["of"]] = max(line["step"], found.get(line["of"], -1))
    return found
