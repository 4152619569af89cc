"""A service that is operated: a process whose log and end are seen too."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.service.processes import ROOT


@dataclass(frozen=True)
class Operated:
    """A running `python -m service`, what it has written so far below `log`, and a client."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    client: httpx.Client

    def lines(self) -> list[dict[str, Any]]:
        """Its log, where that is JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stopped(self) -> int:
        """Its exit code, after it was asked to end."""
        self.process.terminate()
        return self.process.wait(timeout=30)


@contextlib.contextmanager
def operated(root: Path, log: Path, verify: Any = True, **settings: object) -> Iterator[Operated]:
    """`python -m service` over the models below `root`, all that it says written to the file `log`."""
    base = {"PORT": 0, "PROVIDER": "cpu", "WORKERS": 0, "THREADS": 1, "HISTORY_URL": ""}
    chosen = {"MODEL_REPOSITORY": root, **base, **settings}
    environment = os.environ | {f"RESLENS_{name}": str(value) for name, value in chosen.items()}
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-m", "service"], cwd=ROOT, env=environment, stdout=output, stderr=output, text=True
        ) as process,
    ):
        try:
            while not (found := re.search(r"(https?://[0-9.:]+[0-9])", log.read_text())):
                assert process.poll() is None, log.read_text()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
            with httpx.Client(base_url=found[1], timeout=30, verify=verify) as client:
                yield Operated(process, found[1], log, client)
        finally:
            process.kill()
