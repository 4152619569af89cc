"""What the processes run, for the supervisor to name without importing all that they need."""

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.settings import Settings


def observe(settings: Settings, directory: str) -> None:
    from service.processes.observer import run

    with _within(directory):
        run(settings, directory)


def work(settings: Settings, directory: str, number: int, link: socket.socket) -> None:
    from service.processes.worker import run

    with _within(directory):
        run(settings, directory, number, link)


@contextlib.contextmanager
def _within(directory: str) -> Iterator[None]:
    """Keep the folder of the service, and have everything temporary in it: it goes with it, whoever is killed."""
    from service.processes.holding import holding

    tempfile.tempdir = directory
    with holding(Path(directory)):
        yield
