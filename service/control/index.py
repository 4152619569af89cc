"""What can be said about everything that is in the repository, or served."""

from collections.abc import Mapping

from models.repository import ModelRepository, UnreadableModelError
from service.control.course import Course
from service.control.serving import WHOLE, State


def index_of(repository: ModelRepository, courses: Mapping[str, Course]) -> list[State]:
    """Every version, in order, also those that are served and not in the repository any more, and whole models."""
    problems = repository.unreadable()
    served = [course.name for course in courses.values() if course.serving.versions]
    found = []
    for name in {*repository.names(), *served}:
        course = courses.get(name) or Course(name)
        if problem := course.failures.get(WHOLE):
            problems[name] = problem
        found += _states(repository, course)
    found += [State(name=name, version=WHOLE, state="UNAVAILABLE", reason=why) for name, why in problems.items()]
    return sorted(found, key=lambda state: (state.name, state.version))


def _states(repository: ModelRepository, course: Course) -> list[State]:
    served = course.serving.versions
    try:
        versions = repository.versions(course.name)
    except UnreadableModelError:  # nobody knows what else there is
        return [course.state(version) for version in served]
    gone = {*served} - {*versions}
    return [course.state(version, gone=version in gone) for version in (*versions, *gone)]
