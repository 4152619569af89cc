"""What the processes run, for the supervisor to name without importing all that they need."""

import socket

from service.settings import Settings


def observe(settings: Settings, directory: str) -> None:
    from service.processes.observer import run

    run(settings, directory)


def work(settings: Settings, directory: str, number: int, link: socket.socket) -> None:
    from service.processes.worker import run

    run(settings, directory, number, link)
