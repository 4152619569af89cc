"""The one place where it is decided which versions are served."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from anyio import to_thread

from models.choice import Choice
from models.policy import VersionPolicy
from models.repository import ModelRepository, UnknownModelError, UnknownVersionError
from service.control.choosing import Choosing
from service.control.course import Course, LastUsed
from service.control.fleet import Fleet
from service.control.index import index_of
from service.control.joining import Joining
from service.control.names import Names
from service.control.pilot import Pilot
from service.control.polling import Polling, follow_each
from service.control.replica import Replica
from service.control.serving import Serving, State
from service.control.trimming import Trimming
from service.control.unknown import Unknown
from service.errors import ModelUnavailableError, ServiceError

Done = TypeVar("Done")

# Longer than a model takes to load, shorter than whoever ends a service waits before it kills.
CLOSE_SECONDS = 20.0
# What is left of a disk or a bucket that is not there for a while.
EMPTY = "the repository has no model any more, all at once: what was served goes on; unload what is to end"


class Control:
    """Every change has two phases: all replicas prepare, and only if all can, all serve; else nothing changes.

    Belongs to one event loop. A model's versions are those that its policy has, those of its labels, its default, and
    of those that requests named the `max_named` that were used last. What is in the repository is looked at by `start`,
    `load` and `poll`; a version that failed is tried again by `load`, or when its files have changed.
    """

    def __init__(
        self,
        repository: ModelRepository,
        policies: Mapping[str, VersionPolicy] | None = None,
        max_named: int = 4,
        poll_seconds: float | None = None,
        last_used: LastUsed = lambda name, version: 0,  # noqa: ARG005
    ) -> None:
        self._repository = repository
        self._max_named, self._last_used = max_named, last_used
        self._fleet = Fleet()
        self._pilot = Pilot(repository, self._fleet, policies or {})
        self._joining = Joining(repository, self._fleet, self._pilot)
        self._choosing = Choosing(self._pilot)
        self._courses: dict[str, Course] = {}
        self._empty = False
        self._polling = Polling(self.poll, poll_seconds) if poll_seconds else None
        self._unknown = Unknown()
        self._names = Names(repository.names)
        self._trimming = Trimming(repository)
        self._changes: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Serve what is in the repository; what cannot be served is recorded, and raises nothing."""
        await self.poll()
        if self._polling:
            self._polling.start()

    async def close(self) -> None:
        """Let the changes that have begun end, if they do soon, but for what they wait for elsewhere."""
        self._repository.close()
        if self._polling:
            await self._polling.close()
        if self._changes:
            await asyncio.wait(self._changes, timeout=CLOSE_SECONDS)

    async def join(self, replica: Replica) -> None:
        """Bring a replica to the present state, and count on it from now on.

        Raises `ModelUnavailableError` when it cannot load what others serve by default, or `ReplicaLostError`; it is
        left out then. Where no other does, or several were left out, what can be loaded takes the place of what cannot.
        """
        await self._whole(self._join(replica))

    def leave(self, replica: Replica) -> None:
        self._fleet.remove(replica)

    async def load(self, name: str, version: int | None = None) -> int:
        """Read the repository again, and serve the newest version by default, or pin the default to `version`.

        Until then the old one answers, and it goes on when the new one does not load, but that a model of which
        nothing was served gets its newest version that does load. Returns the version. Raises `UnknownModelError`,
        `UnknownVersionError`, `ModelUnavailableError`, or `ControlError` when the pin cannot be kept.
        """
        return await self._whole(self._load(name, version))

    async def unload(self, name: str) -> None:
        """Serve no version of a model until it is loaded again. Raises `UnknownModelError`."""
        await self._whole(self._unload(name))

    async def rollback(self, name: str) -> int:
        """Pin the default to the one before, or if none is remembered to the version before; returns it.

        Raises `UnknownModelError`, `UnloadedError`, `ConflictError` where there is none before, or
        `ModelUnavailableError`.
        """
        return await self._whole(self._rollback(name))

    async def label(self, name: str, label: str, version: int | None, share: float = 0.0) -> None:
        """Set a label, once its version is loaded, and the percentage of the default's requests it gets; or remove it.

        Raises `BadRequestError` for a label or a share that cannot be, and as `load` does.
        """
        await self._whole(self._label(name, label, version, share))

    async def withhold(self, name: str, version: int, withheld: bool = True) -> None:
        """Never serve a version by default unless it is pinned, or as others again; the next one may be none yet.

        Raises `UnknownModelError`, `UnknownVersionError`, `ConflictError` for the default, or `ControlError`.
        """
        await self._whole(self._withhold(name, version, withheld))

    async def demand(self, name: str, version: int | None = None) -> None:
        """Load a version that a request named, if it is not, or say why it cannot be served.

        Raises `UnknownModelError`, `UnknownVersionError`, `UnloadedError` or `ModelUnavailableError`.
        """
        self._unknown.check(name, version)
        try:
            await self._whole(self._demand(name, version))
        except (UnknownModelError, UnknownVersionError) as error:
            self._unknown.add(name, version, error)
            raise

    async def poll(self) -> None:
        """Look at the repository, and follow what has changed; while it cannot be reached, all goes on as it is."""
        await to_thread.run_sync(self._repository.refresh)
        self._unknown.clear()
        if self._courses and self._repository.problem:
            return
        names = await to_thread.run_sync(self._repository.names)
        unreadable = await to_thread.run_sync(self._repository.unreadable)
        self._empty = not names and not unreadable and any(serving.versions for serving in self.servings())
        if self._empty:
            return
        await follow_each(sorted({*names, *unreadable, *self._courses}), lambda name: self._whole(self._follow(name)))

    async def states(self) -> list[State]:
        """Every version that is in the repository or served, in order, and what is wrong with whole models."""
        return await to_thread.run_sync(index_of, self._repository, dict(self._courses))

    async def problem(self) -> str:
        """Why it cannot be reached where the versions come from; empty if it can."""
        return self._repository.problem or (EMPTY if self._empty else "")

    def servings(self) -> list[Serving]:
        """What is served of each model, in order."""
        return [self._courses[name].serving for name in sorted(self._courses)]

    async def _whole(self, change: Coroutine[Any, Any, Done]) -> Done:
        """Make a change to its end, even when whoever asked for it goes away."""
        task = asyncio.create_task(self._trimmed(change))
        self._changes.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def _trimmed(self, change: Coroutine[Any, Any, Done]) -> Done:
        try:
            return await change
        finally:
            # What is being loaded is not served yet, and must not be dropped.
            if not any(course.loading for course in self._courses.values()):
                await self._trimming.after(self._pilot.loads, self.servings())

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # seen, even if whoever asked has gone away

    async def _join(self, replica: Replica) -> None:
        member = self._fleet.add(replica)
        try:
            for course in list(self._courses.values()):
                async with course.lock:
                    await self._joining.bring(member, course)
        except BaseException:
            self._fleet.remove(replica)
            raise

    async def _load(self, name: str, version: int | None) -> int:
        await to_thread.run_sync(self._repository.refresh)
        self._unknown.clear()
        course = await self._known(name)
        async with course.lock:
            look = await self._pilot.look(course)
            target = version or course.newest()
            if target not in look.versions:
                raise UnknownVersionError(name, target, look.versions)
            left = None if course.default == target else course.default
            pins = version != look.choice.default

            def pinned(choice: Choice) -> Choice:
                return choice.pinned(version, left)

            try:
                await self._pilot.prepare(course, target)
                await self._pilot.keep(course, pinned, must=pins)
            except ServiceError:
                course.unloaded = False
                # Of a model of which nothing is served, what is good.
                await (self._pilot.serve(course) if course.default else self._pilot.settle(course))
                raise
            await self._pilot.settle(course)
            return target

    async def _unload(self, name: str) -> None:
        course = await self._known(name)
        async with course.lock:
            course.forget()
            course.unloaded = True
            await self._pilot.serve(course)

    async def _rollback(self, name: str) -> int:
        course = await self._known(name)
        async with course.lock:
            return await self._choosing.roll_back(course)

    async def _label(self, name: str, label: str, version: int | None, share: float) -> None:
        course = await self._known(name)
        async with course.lock:
            await self._choosing.label(course, label, version, share)

    async def _withhold(self, name: str, version: int, withheld: bool) -> None:
        course = await self._known(name)
        async with course.lock:
            await self._choosing.withhold(course, version, withheld)

    async def _demand(self, name: str, version: int | None) -> None:
        course = await self._known(name)
        async with course.lock:
            course.check_loaded()
            if version is None:
                await self._demand_default(course)
            elif version not in course.ready:
                await self._demand_version(course, version)

    async def _demand_default(self, course: Course) -> None:
        if course.default is None and (course.may_mend or not course.look.versions):
            await self._pilot.look(course)
            await self._pilot.settle(course)
        if course.default is None:
            raise ModelUnavailableError(course.reasons())

    async def _demand_version(self, course: Course, version: int) -> None:
        versions = await self._pilot.versions(course)
        if version not in versions:
            raise UnknownVersionError(course.name, version, versions, course.look.choice.labels)
        if version in course.failures and version in course.tried:
            raise ModelUnavailableError(course.reason(version))
        try:
            await self._pilot.prepare(course, version)
            course.name_version(version, self._max_named, self._last_used)
        finally:
            await self._pilot.serve(course)

    async def _follow(self, name: str) -> None:
        course = self._courses.setdefault(name, Course(name))
        async with course.lock:
            before = course.look
            look = await self._pilot.look(course)
            followed = look == before and look.choice == course.settled
            if course.unloaded or (followed and not course.may_mend):
                return
            await self._choosing.settle(course)

    async def _known(self, name: str) -> Course:
        """The course of a model that is served or in the repository; raises `UnknownModelError`."""
        course = self._courses.get(name)
        known = course is not None and course.serving.versions
        if not known and not await to_thread.run_sync(self._repository.versions, name):
            raise UnknownModelError(name, await self._names.recent())
        return self._courses.setdefault(name, Course(name))
