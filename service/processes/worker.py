"""A process that serves: the application, on connections that it is given."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from service import logs
from service.access.slots import SharedSlots
from service.app import create_app
from service.channel import Answer, Channel, Handler, connect
from service.control.serving import Serving
from service.errors import ServiceError, StartupError
from service.monitor.remote import RemoteMonitor
from service.processes.arrivals import Arrivals
from service.processes.peers import RemoteControls, RemotePeers
from service.processes.signals import ignore_signals
from service.processes.sockets import CONTROL, OBSERVER, WORKER
from service.routes.context import Context
from service.server import Server, shelved
from service.settings import Settings

# A file of the directory of all processes: how often each caller asked any of them.
RATES = "rates"
# So often the supervisor is told what this worker has counted, which it keeps if it is killed.
TALLY_SECONDS = 1.0
# What a client of TLS has to agree to the end of its connection.
FAREWELL_SECONDS = 1.0


class WorkerServer(Server):
    """Serves what it is given instead of listening, and ends when its supervisor says so."""

    def __init__(self, app: FastAPI, link: socket.socket) -> None:
        super().__init__(app)
        self._arrivals = Arrivals(link, self._take)
        self._taking: set[asyncio.Task[None]] = set()
        self.listens = asyncio.Event()
        self._connection = _counted(self.config.http_protocol_class, self._report)

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()

    def greet(self) -> None:
        """The supervisor does, once."""

    @property
    def here(self) -> Context:
        return self._context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._arrivals.start()
        self.listens.set()

    async def on_tick(self, counter: int) -> bool:
        ends = await super().on_tick(counter)
        if self._context.lifetime.ends:
            self.close_connections()
        return ends

    def end(self) -> None:
        """Answer what has begun, and nothing else."""
        self._context.lifetime.ends = True
        self.close_connections()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._arrivals.stop()
        for task in self._taking:  # they have asked nothing yet
            task.cancel()
        await asyncio.gather(*self._taking, return_exceptions=True)
        await uvicorn.Server.shutdown(self, sockets)

    def _take(self, connection: socket.socket) -> None:
        task = asyncio.create_task(self._serve_connection(connection))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)
        self._report()

    async def _serve_connection(self, connection: socket.socket) -> None:
        handshake = self._context.settings.header_seconds if self.config.ssl else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connection(
                    config=self.config, server_state=self.server_state, app_state=self.lifespan.state
                ),
                connection,
                ssl=self.config.ssl,
                ssl_handshake_timeout=handshake,
                ssl_shutdown_timeout=FAREWELL_SECONDS if self.config.ssl else None,
            )
        except OSError:  # it left, or its TLS failed
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            self._report()

    def _report(self) -> None:
        self._arrivals.report(len(self.server_state.connections))


def _counted(connection: Any, report: Callable[[], None]) -> Any:
    """The same kind of connection, that reports when one ends."""

    def connection_lost(self: Any, error: Exception | None) -> None:
        connection.connection_lost(self, error)
        report()

    return type("WorkerConnection", (connection,), {"connection_lost": connection_lost})


def run(settings: Settings, directory: str, number: int, link: socket.socket) -> None:
    """Serve until the supervisor says that it is enough, or is gone."""
    ignore_signals()
    logs.configure(settings.log_format, settings.access_log)
    loop_factory = uvicorn.Config("", loop="auto").get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(settings, Path(directory), number, link))


async def _serve(settings: Settings, directory: Path, number: int, link: socket.socket) -> None:
    worker = Worker(settings, number, link)
    channel = await connect(str(directory / CONTROL), worker.handlers)
    # With the supervisor gone nobody gives connections any more.
    supervising = asyncio.create_task(channel.run())
    supervising.add_done_callback(lambda _: worker.end())
    try:
        await worker.serve(channel, directory)
    finally:
        channel.close()


class Worker:
    """What the supervisor may ask of this process."""

    def __init__(self, settings: Settings, number: int, link: socket.socket) -> None:
        self._settings = settings
        self._number = number
        self._link = link
        self._server: WorkerServer | None = None
        self.handlers: dict[str, Handler] = {
            "prepare": self._prepare,
            "serve": self._serve_model,
            "shelved": self._shelved,
            "counts": self._counts,
            "announce": self._announce,
            "end": self._end,
            "ping": self._ping,
        }

    async def serve(self, channel: Channel, directory: Path) -> None:
        """Serve until it ends."""
        monitor = partial(RemoteMonitor, str(directory / OBSERVER), self._settings.statistics_sample)
        peers, controls = RemotePeers(channel), RemoteControls(channel)
        slots = SharedSlots(directory / RATES)
        try:
            app = create_app(self._settings, monitor=monitor, peers=peers, controls=controls, slots=slots)
            self._server = WorkerServer(app, self._link)
        except StartupError as error:
            await channel.call("failed", message=str(error))
            return
        serving = asyncio.create_task(self._server.serve(sockets=[]))
        started = asyncio.create_task(self._server.listens.wait())
        await asyncio.wait((serving, started), return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if not serving.done():
            await channel.call("hello", role=WORKER, number=self._number)
        telling = asyncio.create_task(self._tell_tally(channel))
        await serving
        telling.cancel()
        with contextlib.suppress(ServiceError, TimeoutError):
            await asyncio.wait_for(channel.call("tally", own=self._tally()), TALLY_SECONDS)

    def end(self) -> None:
        if self._server is not None:
            self._server.end()

    @property
    def _here(self) -> Context:
        assert self._server is not None, "nothing is asked before the worker says hello"
        return self._server.here

    def _tally(self) -> list[dict[str, Any]]:
        return [counts.model_dump() for counts in self._here.tally.all()]

    async def _tell_tally(self, channel: Channel) -> None:
        """Again and again, where it has changed."""
        told: list[dict[str, Any]] = []
        while True:
            await asyncio.sleep(TALLY_SECONDS)
            tally = self._tally()
            if tally != told and channel.tell("tally", own=tally):
                told = tally

    async def _prepare(self, arguments: dict[str, Any], _: bytes) -> Answer:
        await self._here.shelf.prepare(**arguments)
        return Answer(None)

    async def _serve_model(self, arguments: dict[str, Any], _: bytes) -> Answer:
        await self._here.shelf.serve(Serving.model_validate(arguments["serving"]))
        return Answer(None)

    async def _shelved(self, _: dict[str, Any], __: bytes) -> Answer:
        return Answer(shelved(self._here).model_dump())

    async def _counts(self, _: dict[str, Any], __: bytes) -> Answer:
        return Answer(self._tally())

    async def _ping(self, _: dict[str, Any], __: bytes) -> Answer:
        return Answer(None)

    async def _announce(self, _: dict[str, Any], __: bytes) -> Answer:
        self._here.lifetime.ends = True
        return Answer(None)

    async def _end(self, _: dict[str, Any], __: bytes) -> Answer:
        self.end()
        return Answer(None)
