"""What is chosen among the versions of one model: kept in the repository, and then served by all replicas."""

from models.choice import Choice
from models.repository import UnknownVersionError
from service.control.course import Course
from service.control.pilot import Pilot
from service.errors import BadRequestError, ConflictError


class Choosing:
    """Changes of labels, shares and marks, and the way back; whoever calls holds the lock of the course."""

    def __init__(self, pilot: Pilot) -> None:
        self._pilot = pilot

    async def settle(self, course: Course) -> None:
        """Serve what is wanted; a default that was left so is remembered, and what was tried beside it is over.

        Whoever reads the same repository and was first to leave it has remembered that: what is tried since goes on.
        """
        was, before = course.default, course.settled
        await self._pilot.settle(course)
        if was is None or course.default in (None, was):
            return

        def left(choice: Choice) -> Choice:
            return choice.after(was) if choice.has_default_of(before) else choice

        tried = bool(course.look.choice.shares)
        await self._pilot.keep(course, left, must=False)
        if tried:
            await self._pilot.serve(course)

    async def roll_back(self, course: Course) -> int:
        """Pin the default to the one before, and withhold the one that is left; returns the default."""
        course.check_loaded()
        left, before = course.default, await self._pilot.choice(course)
        versions = await self._pilot.versions(course)
        try:
            choice = before.rolled_back(left, versions)
        except ValueError as error:
            raise ConflictError(f"model {course.name!r} cannot be rolled back: {error}") from error
        assert choice.default is not None
        back = choice.model_dump(include={"default", "previous", "shares"})

        def rolled_back(now: Choice) -> Choice:
            # Loading takes a while, in which somebody else may have withheld another one.
            return (now if left is None else now.withholding(left)).model_copy(update=back)

        await self._pilot.adopt(course, choice.default, rolled_back)
        course.default = choice.default
        await self._pilot.serve(course)
        return choice.default

    async def label(self, course: Course, label: str, version: int | None, share: float) -> None:
        """Set a label and its share once its version is loaded, or remove both."""
        course.check_loaded()
        before = await self._pilot.choice(course)
        try:
            before.labelled(label, version, share)
        except ValueError as error:
            raise BadRequestError(str(error)) from error

        def labelled(choice: Choice) -> Choice:
            return choice.labelled(label, version, share)

        if version is None:
            await self._pilot.keep(course, labelled, must=True)
        else:
            await self._pilot.adopt(course, version, labelled)
        await self._pilot.serve(course)

    async def withhold(self, course: Course, version: int, withheld: bool) -> None:
        """Mark a version, which may be the one that is published next, or take the mark away."""
        versions, before = await self._pilot.versions(course), await self._pilot.choice(course)
        if version not in versions and version > before.next_number(versions):
            raise UnknownVersionError(course.name, version, versions)
        if withheld and version in (course.default, before.default):
            raise ConflictError(f"version {version} of model {course.name!r} is the default: load another one before")
        await self._pilot.keep(course, lambda choice: choice.withholding(version, withheld), must=True)
        if course.unloaded:
            await self._pilot.serve(course)  # nothing, and say what is withheld
        else:
            await self.settle(course)
