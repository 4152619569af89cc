"""The monitor as a worker has it: another process watches for all workers."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.channel import Answer, Channel, ChannelClosedError, connect
from service.errors import ServiceError
from service.monitor.meters import Meters
from service.monitor.subject import Subject
from service.runtime.model import Tensors
from service.runtime.observation import Observer

# Until the observer listens again after it was started anew.
RETRY_SECONDS = 0.1
ABSENT = "the process that watches the traffic is being started: try again"


class RemoteMonitor:
    """Chooses which requests are watched; their outputs go through a channel to whoever listens at `path`."""

    def __init__(self, path: str, share: float, meters: Meters) -> None:
        self._path = path
        self._share = share
        self._meters = meters
        self._random = random.Random()
        self._channel: Channel | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._connecting = asyncio.create_task(self._stay_connected())

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
        if self._channel is not None:
            await self._channel.flush()
            self._channel.close()

    def observer(self) -> Observer | None:
        return self._observe if self._random.random() < self._share else None

    async def statistics(self, model: Subject, window: str) -> bytes:
        return (await self._ask("statistics", window=window, **key_of(model))).payload

    async def diagnosis(self, model: Subject, window: str | None) -> bytes:
        return (await self._ask("diagnosis", window=window, **key_of(model))).payload

    async def series(self) -> bytes:
        # A scrape tells of what there is.
        with contextlib.suppress(ServiceError):
            return (await self._ask("series")).payload
        return b""

    async def _ask(self, question: str, **arguments: Any) -> Answer:
        if self._channel is None:
            raise ChannelClosedError(ABSENT)
        return await self._channel.call(question, **arguments)

    def _observe(self, model: Subject, outputs: Tensors) -> None:
        """In whatever thread the model ran."""
        assert self._loop is not None
        payload = b"".join(np.ascontiguousarray(values).data.cast("B") for values in outputs.values())
        tensors = [[name, values.dtype.str, values.shape] for name, values in outputs.items()]
        self._loop.call_soon_threadsafe(self._tell, payload, {"tensors": tensors, **key_of(model)})

    def _tell(self, payload: bytes, arguments: dict[str, Any]) -> None:
        if self._channel is None or not self._channel.tell("observe", payload, **arguments):
            self._meters.dropped_sample(arguments["name"])

    async def _stay_connected(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                self._channel = await connect(self._path, {})
                await self._channel.run()
            self._channel = None
            await asyncio.sleep(RETRY_SECONDS)


def key_of(model: Subject) -> dict[str, Any]:
    """Which graph: what the other process needs to find the same."""
    manifest = model.manifest
    return {"name": manifest.name, "version": manifest.version, "digest": manifest.digests[manifest.graph]}


def unpack(tensors: Sequence[Sequence[Any]], payload: bytes) -> dict[str, NDArray[np.float32]]:
    """The outputs of a run as they came through a channel."""
    outputs, start = {}, 0
    for name, dtype, shape in tensors:
        count = int(np.prod(shape))
        outputs[name] = np.frombuffer(payload, dtype, count, start).reshape(shape)
        start += outputs[name].nbytes
    return outputs
