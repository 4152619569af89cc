"""What a worker asks of the supervisor: the other workers, and the control of what all of them serve."""

from service.channel import Channel
from service.control.serving import State
from service.protocol.counts import ModelStatistics


class RemotePeers:
    """The other workers."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def counts(self, own: list[ModelStatistics]) -> list[ModelStatistics]:
        answer = await self._channel.call("counts", own=[counts.model_dump() for counts in own])
        return [ModelStatistics.model_validate(counts) for counts in answer.result]


class RemoteControls:
    """The control, which is the supervisor's."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def load(self, name: str, version: int | None = None) -> int:
        loaded: int = (await self._channel.call("load", name=name, version=version)).result
        return loaded

    async def unload(self, name: str) -> None:
        await self._channel.call("unload", name=name)

    async def rollback(self, name: str) -> int:
        version: int = (await self._channel.call("rollback", name=name)).result
        return version

    async def label(self, name: str, label: str, version: int | None, share: float = 0.0) -> None:
        await self._channel.call("label", name=name, label=label, version=version, share=share)

    async def withhold(self, name: str, version: int, withheld: bool = True) -> None:
        await self._channel.call("withhold", name=name, version=version, withheld=withheld)

    async def demand(self, name: str, version: int | None = None) -> None:
        await self._channel.call("demand", name=name, version=version)

    async def states(self) -> list[State]:
        return [State.model_validate(state) for state in (await self._channel.call("states")).result]

    async def problem(self) -> str:
        problem: str = (await self._channel.call("problem")).result
        return problem
