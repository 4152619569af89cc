"""The process that watches the traffic of all workers: it holds the windows, judges them, and keeps the history."""

import asyncio
import contextlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio import to_thread

from models.manifest import ModelManifest
from models.repository import ModelRepository, RepositoryError, UnknownVersionError
from service import logs
from service.channel import LAST_SECONDS, Answer, Channel, connect
from service.control.opening import repository_of
from service.monitor.buckets import SECONDS
from service.monitor.local import LocalMonitor, local_monitor
from service.monitor.meters import Meters
from service.monitor.remote import unpack
from service.processes.signals import ignore_signals
from service.processes.sockets import CONTROL, OBSERVER, WATCHER
from service.runtime.reference import Reference
from service.settings import Settings

# Versions of which the manifest and the baseline are kept.
KEPT = 64
RETRY_SECONDS = 10.0
# Below whoever answers requests.
NICE = 10


@dataclass(frozen=True)
class Published:
    """A version that is watched and not run."""

    manifest: ModelManifest
    reference: Reference


class Observer:
    """Answers the workers' channels."""

    def __init__(self, repository: ModelRepository, monitor: LocalMonitor, meters: Meters) -> None:
        self._repository = repository
        self._monitor = monitor
        self._meters = meters
        # Of each version that came, whether or not it could be opened: many samples may wait for one.
        self._published: OrderedDict[tuple[str, int, str], asyncio.Task[Published]] = OrderedDict()
        self.handlers = {
            "observe": self._observe,
            "statistics": self._statistics,
            "diagnosis": self._diagnosis,
            "series": self._series,
        }

    async def _observe(self, arguments: dict[str, Any], payload: bytes) -> Answer:
        outputs = unpack(arguments.pop("tensors"), payload)
        try:
            self._monitor.traffic.observe(await self._subject(**arguments), outputs)
        except RepositoryError:  # its files are gone: what is known of it is in the history
            self._meters.dropped_sample(arguments["name"])
        return Answer(None)

    async def _statistics(self, arguments: dict[str, Any], _: bytes) -> Answer:
        window = arguments.pop("window")
        return Answer(None, await self._monitor.statistics(await self._subject(**arguments), window))

    async def _diagnosis(self, arguments: dict[str, Any], _: bytes) -> Answer:
        window = arguments.pop("window")
        return Answer(None, await self._monitor.diagnosis(await self._subject(**arguments), window))

    async def _series(self, _: dict[str, Any], __: bytes) -> Answer:
        return Answer(None, await self._monitor.series())

    async def _subject(self, name: str, version: int, digest: str) -> Published:
        """The version that the worker runs; raises `UnknownVersionError` when it is no longer in the repository."""
        key = (name, version, digest)
        if key not in self._published:
            opening = asyncio.create_task(to_thread.run_sync(self._open, name, version, digest))
            opening.add_done_callback(lambda opening: self._forget_failure(key, opening))
            self._published[key] = opening
        self._published.move_to_end(key)
        while len(self._published) > KEPT:
            self._published.popitem(last=False)
        return await asyncio.shield(self._published[key])

    def _forget_failure(self, key: tuple[str, int, str], opening: "asyncio.Task[Published]") -> None:
        """After a while: not for each sample that comes meanwhile."""
        if not opening.cancelled() and opening.exception() is not None:
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._published.pop, key, None)

    def _open(self, name: str, version: int, digest: str) -> Published:
        bundle = self._repository.open(name, version)
        if bundle.manifest.digests[bundle.manifest.graph] != digest:
            raise UnknownVersionError(name, str(version), self._repository.versions(name))
        return Published(bundle.manifest, Reference.of(bundle))


def run(settings: Settings, directory: str, bucket_seconds: int = SECONDS) -> None:
    """Watch until the supervisor says that it is enough, or is gone."""
    ignore_signals()
    logs.configure(settings.log_format, settings.access_log)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    asyncio.run(_serve(settings, Path(directory), bucket_seconds))


async def _serve(settings: Settings, directory: Path, bucket_seconds: int) -> None:
    ended = asyncio.Event()

    async def end(_: dict[str, Any], __: bytes) -> Answer:
        ended.set()
        return Answer(None)

    supervisor = await connect(str(directory / CONTROL), {"end": end})
    supervising = asyncio.create_task(supervisor.run())
    supervising.add_done_callback(lambda _: ended.set())
    meters = Meters()
    monitor = local_monitor(settings, meters, bucket_seconds)
    observer = Observer(repository_of(settings), monitor, meters)
    channels: set[Channel] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = Channel(reader, writer, observer.handlers)
        channels.add(channel)
        try:
            await channel.run()
        finally:
            channels.discard(channel)

    await monitor.start()
    server = await asyncio.start_unix_server(accept, directory / OBSERVER)
    try:
        with contextlib.suppress(Exception):
            await supervisor.call("hello", role=WATCHER)
        await ended.wait()
    finally:
        server.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_drained(channels), LAST_SECONDS)
        for channel in list(channels):
            channel.close()
        await monitor.close()
        supervisor.close()


async def _drained(channels: set[Channel]) -> None:
    """What workers told before they ended is seen, and then they are gone."""
    while channels:
        await asyncio.sleep(0.01)
