"""What was chosen among the versions of a model: labels, and which one is served where none is named."""

import json
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from models.notes import parse_note

CHOICE = "serving.json"
MAX_CHOICE_BYTES = 64 << 10
MAX_LABELS = 64
# Defaults before the present one that are remembered.
MAX_PREVIOUS = 16

_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,31}")

# As many as the names of directories may have, see `models.publishing.VERSION`.
Version = Annotated[int, Field(ge=1, le=999_999_999)]


def plain_label(label: str) -> str:
    """A label: never a number, so that it cannot be taken for a version."""
    first, rest = label[:1], label[1:]
    if not (
        "a" <= first <= "z"
        and len(rest) < 32
        and all(c.isascii() and (c.isdigit() or c.islower() or c in "_-") for c in rest)
    ):
        raise ValueError(
            f"label {label[:80]!r} is not allowed: use at most 32 of a-z, 0-9, '_' and '-', starting with a letter"
        )
    return label


Label = Annotated[str, AfterValidator(plain_label)]


class Choice(BaseModel):
    """Kept as `serving.json` in the model's folder, beside its versions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: Version | None = None
    """The version that is served where none is named, whatever is newer; None: the newest that the policy has."""
    previous: Annotated[tuple[Version, ...], Field(max_length=MAX_PREVIOUS)] = ()
    """The defaults before, oldest first: what a rollback goes back to."""
    labels: Annotated[dict[Label, Version], Field(max_length=MAX_LABELS)] = {}

    def labelled(self, label: str, version: int | None) -> "Choice":
        """With a label set, or removed where `version` is None; raises `ValueError` for a label that cannot be."""
        plain_label(label)
        labels = {key: value for key, value in self.labels.items() if key != label}
        if version is not None:
            labels[label] = version
        if len(labels) > MAX_LABELS:
            raise ValueError(f"a model has at most {MAX_LABELS} labels: remove one")
        return self.model_copy(update={"labels": dict(sorted(labels.items()))})

    def rolled_back(self, default: int | None, versions: list[int]) -> "Choice":
        """With the default pinned to the one before, or to the version before where none is remembered.

        Raises `ValueError` where there is none of either among `versions`.
        """
        previous = [version for version in self.previous if version in versions and version != default]
        older = [version for version in versions if default is not None and version < default]
        if not previous and not older:
            raise ValueError(f"there is no version before {default}: nothing to go back to")
        return self.model_copy(update={"default": (previous or older)[-1], "previous": tuple(previous[:-1])})

    def after(self, default: int | None) -> "Choice":
        """With a default that was left remembered as the last of the previous ones."""
        if default is None or self.previous[-1:] == (default,):
            return self
        return self.model_copy(update={"previous": (*self.previous, default)[-MAX_PREVIOUS:]})

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), indent=2).encode() + b"\n"


def parse_choice(content: bytes) -> Choice:
    """Raises `ValueError` where it is none."""
    return parse_note(Choice, CHOICE, content)
