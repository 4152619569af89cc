"""The service as its users start it: a process of its own."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def process(root: Path | str, **settings: object) -> Iterator[str]:
    """`python -m service` over the models below `root`: the host and port where it listens."""
    chosen = {"MODEL_REPOSITORY": root, "PORT": 0, "PROVIDER": "cpu", "WORKERS": 0, "HISTORY_URL": "", **settings}
    environment = {**os.environ, **{f"RESLENS_{name}": str(value) for name, value in chosen.items()}}
    command = [sys.executable, "-m", "service"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            found = (re.search(r"http://([0-9.:]+)", line) for line in running.stdout)
            yield next(match[1] for match in found if match)
        finally:
            running.terminate()
            running.communicate(timeout=30)
