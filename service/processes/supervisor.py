"""The process that starts the others, restarts them, hands out connections, and ends them.

It answers no request and runs no model, so that what falls over falls over elsewhere.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from service import greeting
from service.channel import Channel
from service.control.opening import control_of
from service.control.replica import ReplicaLostError
from service.errors import ServiceError
from service.processes import entries
from service.processes.children import Child
from service.processes.dispatch import Dispatcher, Receiver
from service.processes.hub import Hub
from service.processes.nursery import METRICS, context
from service.processes.remains import Remains
from service.processes.replica import RemoteReplica
from service.processes.size import gpus, share_of
from service.processes.sockets import CONTROL, bind, url_of
from service.processes.tallies import Tallies
from service.runtime.cpus import available_cpus
from service.settings import Settings

logger = logging.getLogger("reslens")

REFUSED, NOT_STARTED = 2, 3
# Beyond the deadline of the drain, for what a process does when that has passed.
GRACE_SECONDS = 10.0
RETRY_SECONDS = 0.05


def supervise(settings: Settings, workers: int, directory: Path) -> int:
    """Serve with so many workers until told to stop; returns the exit code. Raises `StartupError`."""
    listeners = bind(settings.host, settings.port)
    try:
        return asyncio.run(Supervisor(settings, workers, directory, listeners).run())
    finally:
        for listener in listeners:
            listener.close()


class Supervisor:
    """One observer, the workers, and what they share. Belongs to the event loop in which it runs."""

    def __init__(self, settings: Settings, workers: int, directory: Path, listeners: list[socket.socket]) -> None:
        self._settings = settings
        self._directory = directory
        self._url = url_of(listeners[0], settings.tls_certificate is not None)
        self._dispatcher = Dispatcher(listeners)
        self._processes = context()
        tallies = Tallies()
        self._control = control_of(settings, tallies.last_used)
        self._hub = Hub(self._control, tallies, self._welcome, self._refuse)
        self._remains = Remains(directory / METRICS)
        self._observer = Child("the observer", self._start_observer, self._remains.gather)
        self._workers = [
            Child(f"worker {number}", partial(self._start_worker, number), partial(self._leave, number))
            for number in range(workers)
        ]
        self._receivers: dict[int, Receiver] = {}
        self._replicas: dict[int, RemoteReplica] = {}
        self._all_joined = asyncio.Event()
        self._serves = False
        self._ends = asyncio.Event()
        self._signals: list[int] = []
        self._code = 0

    async def run(self) -> int:
        """Serve until a signal comes, or it turns out that this cannot be; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)
        server = await asyncio.start_unix_server(self._hub.accept, self._directory / CONTROL)
        try:
            for child in (*self._workers, self._observer):
                child.start()
            await self._start()
            watching = asyncio.create_task(self._watch())
            await self._ends.wait()
            watching.cancel()
            await self._announce()
        finally:
            await self._end()
            server.close()
            await self._hub.close()
        return self._code

    async def _start(self) -> None:
        """Have all workers load the models, and then let connections in."""
        if not await self._unless_it_ends(self._all_joined.wait()):
            return
        if not await self._unless_it_ends(self._control.start()):
            return
        self._serves = True
        for number in self._replicas:
            self._let_in(number)
        await self._unless_it_ends(self._greet())

    async def _greet(self) -> None:
        shelved = await self._shelved()
        if self._settings.log_format == "json":
            logger.info("listening", extra={"fields": greeting.fields(self._url, shelved)})
        else:
            print(greeting.text(self._url, shelved), flush=True)

    async def _shelved(self) -> greeting.Shelved:
        """What is served, as any worker knows it; waits where all have just fallen over."""
        while True:
            for worker in list(self._hub.workers.values()):
                with contextlib.suppress(ServiceError):
                    return greeting.Shelved.model_validate((await worker.call("shelved")).result)
            await asyncio.sleep(RETRY_SECONDS)

    async def _unless_it_ends(self, work: Coroutine[Any, Any, object]) -> bool:
        """Whether it came to its end before the service was told to end."""
        working, ending = asyncio.ensure_future(work), asyncio.ensure_future(self._ends.wait())
        await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if working.done():
            working.result()
            return True
        working.cancel()
        return False

    def _start_observer(self) -> BaseProcess:
        process = self._processes.Process(target=entries.observe, args=(self._settings, str(self._directory)))
        process.start()
        return process

    def _start_worker(self, number: int) -> BaseProcess:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            settings = share_of(self._settings, number, len(self._workers), available_cpus(), gpus())
            process = self._processes.Process(
                target=entries.work, args=(settings, str(self._directory), number, theirs)
            )
            process.start()
        self._receivers[number] = Receiver(ours)
        return process

    async def _welcome(self, number: int, channel: Channel) -> None:
        """A worker is ready for models."""
        if self._ends.is_set():  # it was not there yet when the others were told
            await channel.call("end")
            return
        process = self._workers[number].process
        assert process is not None
        replica = RemoteReplica(channel, process)
        try:
            await self._control.join(replica)
        except (ServiceError, ReplicaLostError) as error:
            replica.dismiss(str(error))
            return
        self._replicas[number] = replica
        logger.info("worker %d is process %d", number, process.pid)
        if len(self._replicas) == len(self._workers):
            self._all_joined.set()
        if self._serves:
            self._let_in(number)

    def _let_in(self, number: int) -> None:
        self._dispatcher.add(self._receivers[number])

    def _leave(self, number: int) -> None:
        """A worker is gone."""
        self._dispatcher.remove(self._receivers[number])
        self._receivers.pop(number).link.close()
        if replica := self._replicas.pop(number, None):
            self._control.leave(replica)
        elif not self._all_joined.is_set():
            self._code = self._code or NOT_STARTED
            self._ends.set()
        if not self._ends.is_set():
            self._remains.gather()

    async def _watch(self) -> None:
        """Replace workers that live and do nothing."""
        seconds = self._settings.stall_seconds
        while True:
            await asyncio.sleep(seconds / 4)
            for number in await self._hub.silent(seconds):
                logger.error("worker %d has not answered for %.0f s, and is killed", number, seconds)
                self._workers[number].kill()

    def _refuse(self, reason: str) -> None:
        """The settings ask for what is not there: no worker can start."""
        if not self._ends.is_set():
            print(f"error: {reason}", file=sys.stderr)
            self._code = REFUSED
            self._ends.set()

    def _signalled(self, number: int) -> None:
        if self._ends.is_set() and number == signal.SIGINT:  # whoever asks twice does not want to wait
            for child in self._workers:
                child.kill()
        self._signals.append(number)
        self._ends.set()

    async def _announce(self) -> None:
        """Serve on, but say that it will end: until then others may not have heard of it, and still send requests.

        Not after Ctrl-C, nor after a second signal.
        """
        if not self._serves:
            return
        self._hub.tell_workers("announce")
        end = time.monotonic() + self._settings.announce_seconds
        while time.monotonic() < end and self._signals == [signal.SIGTERM]:
            await asyncio.sleep(0.05)

    async def _end(self) -> None:
        """Let nobody in, have the workers answer what has begun, and then the observer keep what it saw."""
        for child in (*self._workers, self._observer):
            child.expect_end()
        self._dispatcher.close()
        self._hub.tell_workers("end")
        await asyncio.gather(*(child.ended(self._settings.drain_seconds + GRACE_SECONDS) for child in self._workers))
        if self._hub.observer is not None:
            self._hub.observer.tell("end")
        else:  # it has seen nothing
            self._observer.kill()
        await self._observer.ended(GRACE_SECONDS)
        await self._control.close()
