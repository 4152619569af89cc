"""A worker, as the control and the dispatcher see it."""

import logging
from multiprocessing.process import BaseProcess
from typing import Any

from service.channel import Channel, ChannelClosedError, RelayedError
from service.control.replica import ReplicaEndedError, ReplicaLostError
from service.control.serving import Serving
from service.errors import ModelUnavailableError

logger = logging.getLogger("reslens")


class RemoteReplica:
    """Asks the worker through its channel."""

    def __init__(self, channel: Channel, process: BaseProcess) -> None:
        self._channel = channel
        self._process = process

    async def prepare(self, name: str, version: int) -> None:
        try:
            await self._call("prepare", name=name, version=version)
        except RelayedError as error:
            unavailable = ModelUnavailableError(str(error))
            unavailable.retry_after = error.retry_after
            raise unavailable from error

    async def serve(self, serving: Serving) -> None:
        await self._call("serve", serving=serving.model_dump(mode="json"))

    def dismiss(self, reason: str) -> None:
        logger.error("worker %s cannot serve what the others do, and is started anew: %s", self._process.pid, reason)
        self._process.kill()

    async def _call(self, what: str, /, **arguments: Any) -> None:
        if self._channel.closed:
            raise ReplicaLostError(f"worker {self._process.pid} is gone")
        try:
            await self._channel.call(what, **arguments)
        except ChannelClosedError as error:
            raise ReplicaEndedError from error
