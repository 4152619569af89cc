"""What is known of one model, and what is meant for it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from models.choice import Choice
from models.policy import VersionPolicy
from service.control.serving import WHOLE, Serving, State
from service.errors import ConflictError, UnloadedError

# When a version last answered an inference, in milliseconds since 1970; 0 for never.
LastUsed = Callable[[str, int], int]

# The newcomers that a version may keep out or end before all others do without it.
PATIENCE = 3
GONE = "its files are gone from the repository: what was loaded of it is served on"
UNLOADED = "was unloaded: load it with POST /v2/repository/models/{name}/load"


@dataclass(frozen=True)
class Look:
    """What the repository said about one model when it was looked at."""

    versions: list[int] = field(default_factory=list)
    marks: dict[int, str] = field(default_factory=dict)
    """By version, what changes when its files do."""
    choice: Choice = field(default_factory=Choice)
    policy: VersionPolicy | None = None
    problem: str = ""
    """Why the versions could not be listed, or the choice or the policy not be read: what was known before holds."""


class Course:
    """The state of one model. Whoever changes it holds its lock."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = asyncio.Lock()
        self.serving = Serving(name=name)
        self.look = Look()
        self.settled = Choice()
        """What was chosen when what is served was last settled; a change that was made here may have read another."""
        self.chosen: list[int] = []
        """The versions that the policy has, of those that load."""
        self.default: int | None = None
        self.named: dict[int, int] = {}
        """The versions that requests named, and when each was loaded for them: milliseconds since 1970."""
        self.ready: set[int] = set()
        """The versions that all replicas have loaded, whatever became of their files since."""
        self.loading: set[int] = set()
        self.tried: dict[int, str] = {}
        """The marks of the versions that are ready, or will not load as they are."""
        self.strikes: dict[tuple[int, str], int] = {}
        """How often a version with a mark kept a newcomer out, or ended it."""
        self.failures: dict[int, str] = {}
        self.unloaded = False

    def check_loaded(self) -> None:
        """Raise `UnloadedError` if it was unloaded."""
        if self.unloaded:
            raise UnloadedError(f"model {self.name!r} {UNLOADED}")

    def candidates(self) -> list[int]:
        """The versions that the policy may have and that are not withheld, newest first."""
        look = self.look
        return look.policy.candidates(look.choice.eligible(look.versions)) if look.policy else []

    def newest(self) -> int:
        """The newest of them; raises `ConflictError` where there is none."""
        if not (candidates := self.candidates()):
            raise ConflictError(
                f"none of the versions {self.look.versions} is one that the policy names and that is not withheld: "
                "change the policy, or load a version by its number"
            )
        return candidates[0]

    @property
    def may_mend(self) -> bool:
        """Whether a version that failed may load another time, as it is."""
        return any(version not in self.tried for version in self.failures if version != WHOLE)

    def wanted(self) -> Serving:
        """What is to be served of it: of all that is meant to be, what is ready."""
        versions = {*self.chosen, *self.named, *self.look.choice.labels.values(), self.default or WHOLE}
        return Serving(
            name=self.name,
            versions=tuple(sorted(versions & self.ready)),
            default=self.default,
            labels=self.look.choice.labels,
            shares=self.look.choice.shares,
            withheld=self.look.choice.withheld,
            loaded=not self.unloaded,
            failures=self.failures,
        )

    def serves(self, serving: Serving) -> None:
        """It is served by all: what is not among it was let go, and is read again before it is served again."""
        self.serving = serving
        self.ready &= set(serving.versions)
        self.tried = {
            version: mark for version, mark in self.tried.items() if version in self.ready or version in self.failures
        }

    def name_version(self, version: int, most: int, last_used: LastUsed) -> None:
        """A request named it. Of more than `most` such versions the ones go whose last use is longest ago."""
        self.named[version] = time.time_ns() // 1_000_000
        others = (named for named in self.named if named != version)
        latest = sorted(others, key=lambda named: max(self.named[named], last_used(self.name, named)), reverse=True)
        self.named = {named: self.named[named] for named in [version, *latest][:most]}

    def forget(self) -> None:
        """No replica has anything of it."""
        self.default, self.chosen, self.named = None, [], {}
        self.ready.clear()
        self.tried.clear()

    def strike(self, version: int, mark: str, count: int = 1) -> None:
        self.strikes[version, mark] = self.strikes.get((version, mark), 0) + count

    def is_worn(self, version: int, mark: str) -> bool:
        """Whether no newcomer is to try a version again, as its files are."""
        return self.strikes.get((version, mark), 0) >= PATIENCE

    def succeeded(self, version: int, mark: str) -> None:
        self.strikes = {struck: count for struck, count in self.strikes.items() if struck[0] != version}
        self.ready.add(version)
        self.tried[version] = mark
        self.failures = {failed: why for failed, why in self.failures.items() if failed != version}

    def failed(self, version: int, mark: str | None, why: str) -> None:
        """`mark` is None where the same files may load another time."""
        self.failures = {**self.failures, version: why}
        self.tried.pop(version, None)
        if mark is not None:
            self.tried[version] = mark

    def sees(self, look: Look) -> None:
        self.look = look
        self.failures = {version: why for version, why in self.failures.items() if version in look.versions}
        self.strikes = {
            (version, mark): count for (version, mark), count in self.strikes.items() if look.marks.get(version) == mark
        }
        if look.problem:
            self.failures[WHOLE] = look.problem

    def reason(self, version: int) -> str:
        return f"model {self.name!r} version {version} cannot be served: {self.failures[version]}"

    def reasons(self) -> str:
        """Why nothing of it is served."""
        of_versions = [self.reason(version) for version in sorted(self.failures, reverse=True) if version != WHOLE]
        none = f"no version of model {self.name!r} is one that its policy names and that is not withheld"
        problem = self.failures.get(WHOLE) or none
        return "; ".join(of_versions) or problem

    def state(self, version: int, gone: bool = False) -> State:
        """`gone` if its files are not in the repository any more."""
        reason = GONE if gone else self.failures.get(version, UNLOADED if self.unloaded else "")
        if version in self.ready:
            return State(name=self.name, version=version, state="READY", reason=reason)
        if version in self.loading:
            return State(name=self.name, version=version, state="LOADING", reason="")
        return State(name=self.name, version=version, state="UNAVAILABLE", reason=reason)
