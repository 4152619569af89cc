"""What a program reads of how a command ended."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from training.outcomes import ending

STDOUT = Path("-")


@contextmanager
def reported(path: Path | None) -> Iterator[dict[str, Any]]:
    """Writes what the block puts into the dictionary to `path` as JSON, however the block ends.

    `outcome`, `exit_code` and, if it failed, `message` are added. With `-` the report is all that standard output gets,
    and what is printed else goes to standard error. Nothing is written where `path` is None.
    """
    report: dict[str, Any] = {}
    stdout = sys.stdout
    try:
        with redirect_stdout(sys.stderr) if path == STDOUT else nullcontext():
            yield report
    except BaseException as error:
        _write(path, stdout, ending(error) | report)
        raise
    _write(path, stdout, ending(None) | report)


def _write(path: Path | None, stdout: Any, report: dict[str, Any]) -> None:
    # Of several processes the first one reports.
    if path is None or os.environ.get("RANK", "0") != "0":
        return
    text = json.dumps(report, indent=2) + "\n"
    if path == STDOUT:
        stdout.write(text)
        stdout.flush()
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
