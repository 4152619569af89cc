"""Which versions of a model are kept ready before anybody asks."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.choice import Version
from models.notes import parse_note

POLICY = "policy.json"
MAX_POLICY_BYTES = 64 << 10


class VersionPolicy(BaseModel):
    """`{"latest": 2}`, `{"versions": [1, 3]}` or `{"all": true}`; kept as `policy.json` in the model's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    latest: Annotated[int, Field(ge=1, le=1000)] | None = None
    """So many of the newest versions that load."""
    versions: Annotated[tuple[Version, ...], Field(min_length=1, max_length=1000, strict=False)] | None = None
    """These alone, whatever is newer."""
    all: Literal[True] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(part is not None for part in (self.latest, self.versions, self.all)) != 1:
            raise ValueError('a policy is one of {"latest": 2}, {"versions": [1, 3]} and {"all": true}')
        return self

    def candidates(self, versions: list[int]) -> list[int]:
        """Those of `versions` that may be kept ready, newest first; no more than `latest` of them are."""
        return [version for version in reversed(versions) if self.versions is None or version in self.versions]


LATEST = VersionPolicy(latest=1)
# In the settings, the policy of the models that have none of their own.
EVERY = "*"


def policy_of(name: str, settings: Mapping[str, VersionPolicy], own: VersionPolicy | None) -> VersionPolicy:
    """The policy of a model: what the settings say of its name, what its folder says, what is said of every model."""
    return settings.get(name) or own or settings.get(EVERY) or LATEST


def parse_policy(content: bytes) -> VersionPolicy:
    """Raises `ValueError` where it is none."""
    return parse_note(VersionPolicy, POLICY, content)
