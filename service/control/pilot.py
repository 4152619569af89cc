"""Brings the replicas to where the course of a model leads: the two phases of every change."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping

from anyio import to_thread

from models.choice import Choice
from models.policy import VersionPolicy, policy_of
from models.repository import ModelRepository, RepositoryError, UnknownVersionError
from service.control.course import PATIENCE, Course, Look
from service.control.fleet import Fleet
from service.control.replica import ReplicaEndedError
from service.errors import ConflictError, ControlError, LoadRefusedError, ModelUnavailableError, ServiceError

logger = logging.getLogger("reslens")

Change = Callable[[Choice], Choice]


class Pilot:
    """What is done with one course; whoever calls holds its lock."""

    def __init__(self, repository: ModelRepository, fleet: Fleet, policies: Mapping[str, VersionPolicy]) -> None:
        self._repository = repository
        self._fleet = fleet
        self._policies = policies
        self.loads = 0
        """How often a version was to be loaded so far."""

    async def look(self, course: Course) -> Look:
        """Look at the repository; what cannot be read stays as it was."""
        course.sees(await to_thread.run_sync(self._seen, course.name, course.look))
        return course.look

    async def settle(self, course: Course) -> None:
        """Serve what the policy, the pin, the labels and requests want, of the versions that were seen and load."""
        look = course.look
        course.unloaded, course.settled = False, look.choice
        course.ready &= set(look.versions)
        course.named = {version: loaded for version, loaded in course.named.items() if version in look.versions}
        course.chosen = await self._chosen(course)
        course.default = await self._default(course)
        for version in sorted({*look.choice.labels.values(), *course.named} & {*look.versions}):
            await self._is_good(course, version)
        await self.serve(course)

    async def adopt(self, course: Course, version: int, change: Change) -> None:
        """Have a version ready everywhere, and keep that it is chosen; if either fails, all stays as it was.

        Raises `UnknownVersionError`, `ModelUnavailableError`, `ConflictError` or `ControlError`.
        """
        versions = await self.versions(course)
        if version not in versions:
            raise UnknownVersionError(course.name, version, versions)
        try:
            if version not in course.ready:
                if await self.is_worn(course, version):
                    raise ModelUnavailableError(course.reason(version))
                await self.prepare(course, version)
            await self.keep(course, change, must=True)
        except ServiceError:
            await self.serve(course)
            raise

    async def prepare(self, course: Course, version: int) -> None:
        """The first phase: all replicas load a version. A failure is recorded, and raises `ModelUnavailableError`.

        Whatever comes of it, `serve` has to follow.
        """
        name = course.name
        self.loads += 1
        course.loading.add(version)
        mark = await to_thread.run_sync(self._repository.fingerprint, name, version)
        try:
            await to_thread.run_sync(self._repository.fetch, name, version)
            await self._fleet.prepare(name, version)
        except (ServiceError, RepositoryError, OSError) as error:
            if ended := isinstance(error, ReplicaEndedError):
                course.strike(version, mark, PATIENCE)
            again = isinstance(error, OSError) or getattr(error, "retry_after", None) is not None
            transient = again and not ended
            course.failed(version, None if transient else mark, str(error) or repr(error))
            logger.error("%s", course.reason(version))
            kind = LoadRefusedError if transient else ModelUnavailableError
            raise kind(course.reason(version)) from error
        finally:
            course.loading.discard(version)
        course.succeeded(version, mark)

    async def is_worn(self, course: Course, version: int) -> bool:
        """Whether a version ended the process that loaded it, or kept out newcomers for too long, as its files are."""
        return course.is_worn(version, await to_thread.run_sync(self._repository.fingerprint, course.name, version))

    async def serve(self, course: Course) -> None:
        """The second phase: all replicas serve what is wanted, and let go of what else they have."""
        serving = course.wanted()
        await self._fleet.serve(serving)
        course.serves(serving)

    async def keep(self, course: Course, change: Change, must: bool) -> None:
        """Change what is chosen on disk, as it is there now.

        Where it cannot be read or written, raise `ConflictError` or `ControlError` if it must last, else go on without.
        """
        try:
            before = await self.choice(course)
            after = change(before)
            if after != before:
                await to_thread.run_sync(self._repository.choose, course.name, after)
        except (ConflictError, OSError) as error:
            if not must:
                logger.warning("the repository cannot keep which versions of %r were served: %s", course.name, error)
                return
            if isinstance(error, ConflictError):
                raise
            raise ControlError(f"the repository cannot keep what is chosen: {error}") from error
        course.look = dataclasses.replace(course.look, choice=after)

    async def choice(self, course: Course) -> Choice:
        """What is chosen in the repository now, by whomever; raises `ConflictError` where that cannot be read.

        While the repository is elsewhere and does not answer, it is what was read last: nothing can be written either.
        """
        with contextlib.suppress(OSError):
            await to_thread.run_sync(self._repository.recall, course.name)
        try:
            return await to_thread.run_sync(self._repository.choice, course.name)
        except ValueError as error:
            raise ConflictError(f"what is chosen of model {course.name!r} cannot be read: {error}; mend it") from error

    async def versions(self, course: Course) -> list[int]:
        return await to_thread.run_sync(self._repository.versions, course.name)

    async def _default(self, course: Course) -> int | None:
        """The pinned version; where it does not load the newest before it, for what is newer was not chosen."""
        pinned = course.look.choice.default
        if pinned is not None:
            older = (version for version in course.candidates() if version < pinned)
            for version in ([pinned] if pinned in course.look.versions else []) + [*older]:
                if await self._is_good(course, version):
                    return version
        return course.chosen[0] if course.chosen else None

    async def _chosen(self, course: Course) -> list[int]:
        """The versions that the policy has, newest first: a good one for each that is not."""
        enough = course.look.policy.latest if course.look.policy else None
        chosen: list[int] = []
        for version in course.candidates():
            if len(chosen) == enough:
                break
            if await self._is_good(course, version):
                chosen.append(version)
        return chosen

    async def _is_good(self, course: Course, version: int) -> bool:
        """Whether a version is ready everywhere; one that is goes on when its files are not good any more."""
        if course.tried.get(version) != course.look.marks.get(version):
            with contextlib.suppress(ModelUnavailableError):
                await self.prepare(course, version)
        return version in course.ready

    def _seen(self, name: str, before: Look) -> Look:
        versions, choice = before.versions, before.choice
        policy = before.policy or policy_of(name, self._policies, None)
        problems = []
        try:
            versions = self._repository.versions(name)
        except RepositoryError as error:
            problems.append(str(error))
        try:
            policy = policy_of(name, self._policies, self._repository.policy(name))
        except ValueError as error:
            problems.append(str(error))
        try:
            choice = self._repository.choice(name)
        except ValueError as error:
            problems.append(str(error))
        marks = {version: self._repository.fingerprint(name, version) for version in versions}
        return Look(versions, marks, choice, policy, "; ".join(problems))
