"""The sending process, seen from the one that trains."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import training

PATIENCE = 30.0
"""Seconds by which sending may delay the end of a run."""


class Courier:
    """Sends what is put into the outbox of `folder` while the run goes on, to `store` or where the environment says."""

    def __init__(self, folder: Path, store: str | None, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        # The same package, wherever this program was started.
        paths = [str(Path(training.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        if store:
            environment["MLFLOW_TRACKING_URI"] = store
        # In a session of its own: Ctrl-C is for the one that trains.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "training.tracking.sender", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def close(self) -> None:
        """The run is over: what is not sent within `PATIENCE` is sent by another one."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._say(
                f"warning: MLflow was not told all within {PATIENCE:g} s: the rest is kept in {self._folder}, and "
                "--resume sends it"
            )
        else:
            if code:
                self._say(
                    f"warning: what sends to MLflow ended with exit code {code}: what it did not send is kept in "
                    f"{self._folder}, and --resume sends it"
                )
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._say(f"warning: {line.decode(errors='replace').rstrip()}")
