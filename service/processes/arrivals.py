"""Connections that a worker is given."""

import asyncio
import contextlib
import socket
from collections.abc import Callable

from service.processes.dispatch import REPORT


class Arrivals:
    """The worker's end of its link to the dispatcher."""

    def __init__(self, link: socket.socket, take: Callable[[socket.socket], None]) -> None:
        self._link = link
        self._take = take
        self._received = 0
        link.setblocking(False)

    def start(self) -> None:
        """Call `take` with each connection that comes."""
        asyncio.get_running_loop().add_reader(self._link, self._read)

    def stop(self) -> None:
        """Take what has come, and no more."""
        self._read()
        asyncio.get_running_loop().remove_reader(self._link)

    def report(self, connections: int) -> None:
        """Say how many are open."""
        with contextlib.suppress(OSError):  # when the supervisor is behind, a later report tells it
            self._link.send(REPORT.pack(self._received, connections))

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                message, descriptors, _, _ = socket.recv_fds(self._link, 1, 1)
                if not message:
                    asyncio.get_running_loop().remove_reader(self._link)
                    return
                self._received += 1  # also where there was no room for its descriptor
                for descriptor in descriptors:
                    self._take(socket.socket(fileno=descriptor))
