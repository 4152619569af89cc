"""Progress for people: a live bar on a terminal, one plain line a step elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar(Protocol):
    """What long work tells: how far it is, and a line worth keeping."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` is done."""

    def line(self, text: str) -> None:
        """Print a line that stays."""


class _RichBar:
    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None, note="")

    def advance(self, done: int, total: int, note: str = "") -> None:
        self._progress.update(self._task, completed=done, total=total, note=note)

    def line(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)


class _NoBar:
    def advance(self, done: int, total: int, note: str = "") -> None:
        pass

    def line(self, text: str) -> None:
        pass


class _PlainBar:
    def advance(self, done: int, total: int, note: str = "") -> None:
        pass

    def line(self, text: str) -> None:
        print(text, flush=True)


@contextmanager
def progress_bar(title: str, shown: bool = True) -> Iterator[Bar]:
    """A bar with rate and remaining time while the block runs; only its kept lines where there is no terminal.

    Nothing at all if not `shown`.
    """
    if not shown:
        yield _NoBar()
        return
    console = Console()
    if not console.is_terminal:
        yield _PlainBar()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield _RichBar(progress, title)
