"""`python -m training watch`"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated

import tyro

from models.manifest import plain_name
from training.retraining.receiver import DRIFT, Judge, Retraining, make_server
from training.retraining.state import JobFolder

SECRET = "RESLENS_WEBHOOK_SECRET"
END_SECONDS = 20.0


def watch(
    options: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    *,
    name: str,
    listen: str = "127.0.0.1:9000",
    rules: tuple[str, ...] = DRIFT,
    job: Path | None = None,
    retry_seconds: float = 60.0,
    retries: int = 60,
) -> None:
    """Listen to the service's webhook, and retrain a model where a finding gives reason to: one job at a time.

    Messages must be signed with RESLENS_WEBHOOK_SECRET, the service's own. A job that was not over when this ended
    goes on when it is started again; one that does not reach the service is tried again.

    Args:
        options: Those of `retrain`, behind `--`.
        name: Name of the model.
        listen: Host and port to listen at; port 0 takes a free one.
        rules: Findings that are reason to retrain.
        job: Folder of the jobs; runs/retrain-<name> if not given.
        retry_seconds: Time after which a job that did not reach the service is tried again.
        retries: How often at most.
    """
    plain_name(name)
    secret = os.environ.get(SECRET, "")
    if not secret:
        raise ValueError(f"{SECRET} is not set: give it the value that the service has, so that messages are genuine")
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdecimal():
        raise ValueError(f"listen={listen!r} is no address: use host:port")
    folder = job or Path("runs") / f"retrain-{name}"
    running = _Running([sys.executable, "-m", "training", "retrain", "--name", name, "--job", str(folder), *options])
    retraining = Retraining(running, retry_seconds, retries)
    server = make_server((host, int(port)), Judge(name, secret, rules), retraining)
    # The server's loop must not be ended from within itself.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    retraining.start()
    state = JobFolder(folder).read()
    if state is not None and state.outcome is None:
        retraining.ask(None)
    print(f"listening on http://{host}:{server.server_address[1]} for {', '.join(rules)} of {name!r}", flush=True)
    server.serve_forever()
    running.end()
    retraining.close(END_SECONDS)
    server.server_close()


class _Running:
    """The job as a process: whatever becomes of it, this one listens on."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, version: int | None) -> int:
        found_in = [] if version is None else ["--found-in", str(version)]
        with subprocess.Popen([*self._command, *found_in]) as process:
            self._process = process
            return process.wait()

    def end(self) -> None:
        """End the job that runs: it goes on another time."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
