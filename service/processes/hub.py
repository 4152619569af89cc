"""Where the channels of all processes end: what they may ask of each other goes through here."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from service.channel import Answer, Channel, ChannelClosedError, Handler
from service.control.control import Control
from service.errors import ServiceError
from service.processes.sockets import WATCHER
from service.processes.tallies import Tallies

logger = logging.getLogger("reslens")

COUNTS_SECONDS = 2.0

Welcome = Callable[[int, Channel], Awaitable[None]]


class Hub:
    """Answers the processes of the service. Belongs to one event loop."""

    def __init__(self, control: Control, tallies: Tallies, welcome: Welcome, refused: Callable[[str], None]) -> None:
        self._control = control
        self._tallies = tallies
        self._welcome = welcome
        self._refused = refused
        self.workers: dict[int, Channel] = {}
        self.observer: Channel | None = None
        self._channels: set[Channel] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one process until it ends."""
        handlers: dict[str, Handler] = {
            "failed": self._failed,
            "load": self._load,
            "unload": self._unload,
            "rollback": self._rollback,
            "label": self._label,
            "withhold": self._withhold,
            "demand": self._demand,
            "states": self._states,
            "problem": self._problem,
        }
        channel = Channel(reader, writer, handlers)

        async def hello(arguments: dict[str, Any], _: bytes) -> Answer:
            if arguments["role"] == WATCHER:
                self.observer = channel
            else:
                self.workers[arguments["number"]] = channel
                await self._welcome(arguments["number"], channel)
            return Answer(None)

        async def counts(arguments: dict[str, Any], _: bytes) -> Answer:
            self._tallies.say(channel, arguments["own"])
            return Answer(await self._counts(channel))

        async def tally(arguments: dict[str, Any], _: bytes) -> Answer:
            self._tallies.say(channel, arguments["own"])
            return Answer(None)

        handlers |= {"hello": hello, "counts": counts, "tally": tally}
        self._channels.add(channel)
        await channel.run()
        self._channels.discard(channel)
        self._tallies.end(channel)
        self.workers = {number: worker for number, worker in self.workers.items() if worker is not channel}
        if self.observer is channel:
            self.observer = None

    async def close(self) -> None:
        """Break off with whoever is still there."""
        while self._channels:
            for channel in list(self._channels):
                channel.close()
            await asyncio.sleep(0.01)

    def tell_workers(self, what: str) -> None:
        """Have every worker do something, without waiting for it: one that does not answer holds up nobody."""
        for worker in self.workers.values():
            worker.tell(what)

    async def silent(self, seconds: float) -> list[int]:
        """The workers that do not answer within that time."""

        async def answers(worker: Channel) -> bool:
            with contextlib.suppress(ChannelClosedError):  # its end is seen elsewhere
                await worker.call("ping")
            return True

        asked = dict(self.workers)
        pings = [asyncio.wait_for(answers(worker), seconds) for worker in asked.values()]
        results = await asyncio.gather(*pings, return_exceptions=True)
        return [number for number, result in zip(asked, results, strict=True) if isinstance(result, TimeoutError)]

    async def _failed(self, arguments: dict[str, Any], _: bytes) -> Answer:
        self._refused(arguments["message"])
        return Answer(None)

    async def _counts(self, asking: Channel) -> list[dict[str, Any]]:
        """Of all workers but the one that asks, dead ones too; of one that does not answer soon what it said last."""

        async def ask(worker: Channel) -> None:
            with contextlib.suppress(TimeoutError, ServiceError):
                answer = await asyncio.wait_for(worker.call("counts"), COUNTS_SECONDS)
                if worker in self._channels:
                    self._tallies.say(worker, answer.result)

        await asyncio.gather(*(ask(worker) for worker in self.workers.values() if worker is not asking))
        return [counts.model_dump() for counts in self._tallies.others(asking)]

    async def _load(self, arguments: dict[str, Any], _: bytes) -> Answer:
        return Answer(await self._control.load(**arguments))

    async def _unload(self, arguments: dict[str, Any], _: bytes) -> Answer:
        await self._control.unload(**arguments)
        return Answer(None)

    async def _rollback(self, arguments: dict[str, Any], _: bytes) -> Answer:
        return Answer(await self._control.rollback(**arguments))

    async def _label(self, arguments: dict[str, Any], _: bytes) -> Answer:
        await self._control.label(**arguments)
        return Answer(None)

    async def _withhold(self, arguments: dict[str, Any], _: bytes) -> Answer:
        await self._control.withhold(**arguments)
        return Answer(None)

    async def _demand(self, arguments: dict[str, Any], _: bytes) -> Answer:
        await self._control.demand(**arguments)
        return Answer(None)

    async def _states(self, _: dict[str, Any], __: bytes) -> Answer:
        return Answer([state.model_dump() for state in await self._control.states()])

    async def _problem(self, _: dict[str, Any], __: bytes) -> Answer:
        return Answer(await self._control.problem())
