"""What a program reads of how a command ended."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from training.loop.stopping import terminable
from training.outcomes import ending

STDOUT = Path("-")

# Of each command that makes one, the option that says where to.
OPTIONS = {"train": "--json", "retrain": "--report"}


@contextmanager
def reported(path: Path | None) -> Iterator[dict[str, Any]]:
    """Writes what the block puts into the dictionary to `path` as JSON, however the block ends, by SIGTERM too.

    `outcome`, `exit_code` and, if it failed, `message` are added. With `-` the report is all that standard output gets,
    and what is printed else goes to standard error. Nothing is written where `path` is None. One of before is removed
    first, and its folder made: raises `ValueError` where that cannot be, before anything else is done.
    """
    report: dict[str, Any] = {}
    stdout = sys.stdout
    _make_room(path)
    try:
        with terminable(), redirect_stdout(sys.stderr) if path == STDOUT else nullcontext():
            yield report
    except BaseException as error:
        _write(path, stdout, ending(error) | report)
        raise
    _write(path, stdout, ending(None) | report)


def report_refused(arguments: Sequence[str], message: str) -> None:
    """For a command line that is refused before its command begins, the report that it asks for."""
    option = OPTIONS.get(arguments[0]) if arguments else None
    if option is None:
        return
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(option, type=Path, dest="path")
    try:
        path = parser.parse_known_args(arguments[1:])[0].path
    except argparse.ArgumentError:
        return
    _make_room(path)
    _write(path, sys.stdout, ending(ValueError(message)))


def _speaks(path: Path | None) -> bool:
    # Of several processes the first one reports.
    return path is not None and os.environ.get("RANK", "0") == "0"


def _make_room(path: Path | None) -> None:
    if path is None or path == STDOUT or not _speaks(path):
        return
    # A device, a pipe or a link must not be taken away for a file.
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError(f"report {path} cannot be written (there is something that is no file): choose another file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        partial = _partial(path)
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise ValueError(f"report {path} cannot be written ({error.strerror}): choose another file") from error


def _write(path: Path | None, stdout: Any, report: dict[str, Any]) -> None:
    if path is None or not _speaks(path):
        return
    text = json.dumps(report, indent=2) + "\n"
    if path == STDOUT:
        stdout.write(text)
        stdout.flush()
        return
    try:
        _partial(path).write_text(text)
        _partial(path).replace(path)
    except OSError as error:
        # What it would say must not be lost, nor hide how the command ended.
        print(f"report {path} cannot be written ({error.strerror}):\n{text}", end="", file=sys.stderr)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")
