"""Brings a replica that comes later to where the others are."""

import logging
from collections.abc import Mapping

from anyio import to_thread

from models.repository import ModelRepository, RepositoryError
from service.control.course import Course
from service.control.fleet import Fleet, Member
from service.control.pilot import Pilot
from service.control.replica import ReplicaEndedError, ReplicaLostError
from service.errors import LoadRefusedError, ModelUnavailableError

logger = logging.getLogger("reslens")


class Joining:
    """A newcomer serves what the others do, or is left out.

    It may wait until the default of a model can be loaded again: the others go on serving it meanwhile. Whatever else
    cannot be loaded any more all do without, for else no process that falls over could be replaced.
    """

    def __init__(self, repository: ModelRepository, fleet: Fleet, pilot: Pilot) -> None:
        self._repository = repository
        self._fleet = fleet
        self._pilot = pilot

    async def bring(self, member: Member, course: Course) -> None:
        """Have a newcomer serve what the others do of one model; whoever calls holds its lock.

        Where it cannot load the default of the others it is left out; where that is another version, or there are no
        others, all do without. Raises `ModelUnavailableError` or `ReplicaLostError`.
        """
        refused = {}
        for version in course.serving.versions:
            try:
                await self._load(member, course, version)
            except ModelUnavailableError as error:
                refused[version] = error
        if refused:
            await self._without(course, refused)
        elif course.may_mend and not course.unloaded:
            await self._pilot.settle(course)
        else:
            await member.serve(course.serving)

    async def _without(self, course: Course, refused: Mapping[int, ModelUnavailableError]) -> None:
        if course.default is not None and course.default in refused and self._fleet.serves(course.name):
            raise refused[course.default]
        for version, error in refused.items():
            mark = None if error.retry_after is not None else await self._mark(course, version)
            course.failed(version, mark, str(error))
            course.ready.discard(version)
            logger.error("%s; no process serves it any more", course.reason(version))
        await self._pilot.look(course)
        await self._pilot.settle(course)

    async def _load(self, member: Member, course: Course, version: int) -> None:
        if await self._pilot.is_worn(course, version):
            raise ModelUnavailableError(course.failures.get(version) or str(ReplicaEndedError()))
        mark = await self._mark(course, version)
        try:
            await self._prepare(member, course.name, version)
        except (ModelUnavailableError, ReplicaEndedError):
            course.strike(version, mark)
            raise

    async def _prepare(self, member: Member, name: str, version: int) -> None:
        try:
            await member.prepare(name, version)
        except ModelUnavailableError:
            # What is kept here of what is elsewhere may be gone or damaged.
            try:
                await to_thread.run_sync(self._repository.fetch, name, version)
                await member.prepare(name, version)
            except ReplicaLostError:
                raise
            except RepositoryError as error:
                raise ModelUnavailableError(str(error)) from error
            except OSError as error:
                raise LoadRefusedError(str(error) or repr(error)) from error

    async def _mark(self, course: Course, version: int) -> str:
        return await to_thread.run_sync(self._repository.fingerprint, course.name, version)
