"""Hands each connection to the worker that has the fewest, and those of a burst to all in turn.

If workers accepted for themselves, whichever wakes first would take all that came at once: a client with eight
connections would keep one core busy and leave the others idle. So the supervisor accepts, and passes the sockets on.
"""

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections import deque

from service.processes.sockets import BACKLOG

logger = logging.getLogger("reslens")

# How many connections a worker has been given, and how many of them are open.
REPORT = struct.Struct("!QI")
# Before others get a turn.
AT_ONCE = 64
RETRY_SECONDS = 0.01
PAUSE_SECONDS = 0.1
# A worker that takes nothing for so long gets what no other one will have.
BEHIND_SECONDS = 0.25
# Connections that come within this time of each other are dealt out in turn: what the workers say of those that ended
# may be as old, and whoever opens several at once keeps them where they are.
BURST_SECONDS = 0.05


class Receiver:
    """One worker as the dispatcher knows it, by its end of a pair of sockets."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self._received = 0
        self._open = 0
        # What is on its way, each since when: the worker may fall over before it takes it.
        self._given: deque[tuple[socket.socket, float]] = deque()
        self._lately: deque[float] = deque()
        link.setblocking(False)

    @property
    def connections(self) -> int:
        """Those open, and those on their way."""
        return self._open + len(self._given)

    def lately(self) -> int:
        """How many it was given in the last moment."""
        while self._lately and time.monotonic() - self._lately[0] > BURST_SECONDS:
            self._lately.popleft()
        return len(self._lately)

    @property
    def behind(self) -> bool:
        """Whether it does not take what it was given."""
        return bool(self._given) and time.monotonic() - self._given[0][1] > BEHIND_SECONDS

    def give(self, connection: socket.socket) -> bool:
        """Pass a connection on; false when the worker takes none now."""
        try:
            socket.send_fds(self.link, [b"+"], [connection.fileno()])
        except OSError:
            return False
        now = time.monotonic()
        self._given.append((connection, now))
        self._lately.append(now)
        return True

    def read_reports(self) -> None:
        with contextlib.suppress(OSError, struct.error):
            while report := self.link.recv(REPORT.size):
                received, self._open = REPORT.unpack(report)
                for _ in range(received - self._received):
                    self._given.popleft()[0].close()  # the worker has its own
                self._received = received

    def take_back(self) -> list[socket.socket]:
        """What it never took."""
        self.read_reports()
        given = [connection for connection, _ in self._given]
        self._given.clear()
        return given


class Dispatcher:
    """Accepts as long as there is a worker; else connections wait in the backlog. Belongs to one event loop."""

    def __init__(self, listeners: list[socket.socket]) -> None:
        self._listeners = [*listeners]
        self._receivers: list[Receiver] = []
        self._waiting: list[socket.socket] = []
        self._retry: asyncio.TimerHandle | None = None
        self._accepting = False

    def add(self, receiver: Receiver) -> None:
        """Let a worker have connections; with the first one, the service listens."""
        loop = asyncio.get_running_loop()
        self._receivers.append(receiver)
        loop.add_reader(receiver.link, receiver.read_reports)
        self._pass_on()
        self._resume()

    def remove(self, receiver: Receiver) -> None:
        if receiver not in self._receivers:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(receiver.link)
        self._receivers.remove(receiver)
        self._waiting[:0] = receiver.take_back()
        self._pass_on()
        if not self._receivers:
            self._pause(loop)

    def close(self) -> None:
        """Let nobody in any more; connections that have been accepted are passed on first."""
        loop = asyncio.get_running_loop()
        self._pause(loop)
        self._pass_on()
        for connection in self._waiting:
            connection.close()
        while self._listeners:
            self._listeners.pop().close()

    def _resume(self) -> None:
        if self._accepting or not self._receivers:
            return
        self._accepting = True
        for listener in self._listeners:
            listener.listen(BACKLOG)
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _pause(self, loop: asyncio.AbstractEventLoop) -> None:
        self._accepting = False
        for listener in self._listeners:
            loop.remove_reader(listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionError):
                break
            except OSError as error:  # no more file descriptors: it goes on waiting, and would be told at once again
                logger.error("a connection could not be accepted: %s", error.strerror)
                loop = asyncio.get_running_loop()
                self._pause(loop)
                loop.call_later(PAUSE_SECONDS, self._resume)
                break
            self._waiting.append(connection)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting and self._give(self._waiting[0]):
            del self._waiting[0]
        if self._waiting and self._receivers and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._try_again)

    def _give(self, connection: socket.socket) -> bool:
        return any(receiver.give(connection) for receiver in sorted(self._receivers, key=_load))

    def _try_again(self) -> None:
        self._retry = None
        self._pass_on()


def _load(receiver: Receiver) -> tuple[bool, int, int]:
    return receiver.behind, receiver.lately(), receiver.connections
