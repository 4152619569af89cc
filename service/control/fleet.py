"""The replicas: what is asked of one is asked of all."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from service.control.replica import Replica, ReplicaEndedError, ReplicaLostError
from service.control.serving import Serving
from service.errors import LoadRefusedError

logger = logging.getLogger("reslens")

NOBODY = "no process is there to load it: they are being started anew"


class Member:
    """A replica, and what it was told."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        # One load at a time: what ends its process is known.
        self._turn = asyncio.Lock()
        self.loading = 0
        """Loads that were asked of it and have not ended."""
        self._serves: set[str] = set()
        self._holds: defaultdict[str, set[int]] = defaultdict(set)

    @property
    def serves_any(self) -> bool:
        return bool(self._serves)

    def serves(self, name: str) -> bool:
        return name in self._serves

    async def prepare(self, name: str, version: int) -> None:
        self.loading += 1
        try:
            async with self._turn:
                await self.replica.prepare(name, version)
        finally:
            self.loading -= 1
        self._holds[name].add(version)

    async def serve(self, serving: Serving) -> None:
        """Serve, after what it was not there to prepare with the others."""
        for version in serving.versions:
            if version not in self._holds[serving.name]:
                await self.prepare(serving.name, version)
        await self.replica.serve(serving)
        self._holds[serving.name] = set(serving.versions)
        self._serves.add(serving.name)


class Fleet:
    """Any number of replicas. One that is lost leaves; what the others do does not depend on it."""

    def __init__(self) -> None:
        self._members: list[Member] = []
        # Once anything is served, what no replica has loaded is tried one after the other: two could end two processes.
        self._trying = asyncio.Lock()

    def add(self, replica: Replica) -> Member:
        member = Member(replica)
        self._members.append(member)
        return member

    def serves(self, name: str) -> bool:
        """Whether any of them serves a model."""
        return any(member.serves(name) for member in self._members)

    def remove(self, replica: Replica) -> None:
        self._members = [member for member in self._members if member.replica is not replica]

    async def prepare(self, name: str, version: int) -> None:
        """Have one load a version, and all others when it could: what ends its process ends no other.

        Raises the error of the first that cannot, after all have ended: `ReplicaEndedError` when its process ended
        meanwhile, `LoadRefusedError` when there is nobody to load it.
        """
        async with self._trying if any(member.serves_any for member in self._members) else contextlib.nullcontext():
            first = await self._first(name, version)
        others = [member for member in self._members if member is not first]
        for _, error in await self._all(others, lambda member: member.prepare(name, version)):
            raise error
        if not self._members:
            raise LoadRefusedError(NOBODY)

    async def serve(self, serving: Serving) -> None:
        """Have all serve what all have prepared. One that cannot, because it came later, is dismissed."""
        for member, error in await self._all(self._members, lambda member: member.serve(serving)):
            if isinstance(error, ReplicaEndedError):
                continue
            logger.error("a process that serves models is dismissed: %s", error)
            self.remove(member.replica)
            member.replica.dismiss(str(error))

    async def _first(self, name: str, version: int) -> Member:
        """One that could load a version."""
        while self._members:
            member = min(self._members, key=lambda member: member.loading)
            try:
                await member.prepare(name, version)
            except ReplicaLostError as error:
                self._lose(member, error)
                if isinstance(error, ReplicaEndedError):
                    raise
            else:
                return member
        raise LoadRefusedError(NOBODY)

    async def _all(
        self, asked: Sequence[Member], ask: Callable[[Member], Awaitable[None]]
    ) -> list[tuple[Member, BaseException]]:
        """The members that failed, with their errors, but for those that were gone before."""
        members = list(asked)
        results = await asyncio.gather(*map(ask, members), return_exceptions=True)
        failed = []
        for member, error in zip(members, results, strict=True):
            if isinstance(error, ReplicaLostError):
                self._lose(member, error)
            if error is not None and (isinstance(error, ReplicaEndedError) or not isinstance(error, ReplicaLostError)):
                failed.append((member, error))
        return failed

    def _lose(self, member: Member, error: ReplicaLostError) -> None:
        logger.info("a process that serves models is gone: %s", error)
        self.remove(member.replica)
