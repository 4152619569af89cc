"""What was chosen among the versions of a model: labels, and which one is served where none is named."""

import json
from math import fsum
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from models.notes import parse_note

CHOICE = "serving.json"
MAX_CHOICE_BYTES = 64 << 10
MAX_LABELS = 64
# Defaults before the present one that are remembered.
MAX_PREVIOUS = 16
MAX_WITHHELD = 1000
ALL = 100.0

# In percent of the requests that name no version.
Share = Annotated[float, Field(gt=0, le=ALL)]

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
    shares: Annotated[dict[Label, Share], Field(max_length=MAX_LABELS)] = {}
    """By label, the percentage of the requests without a version that its version answers; the default has the rest."""
    withheld: Annotated[tuple[Version, ...], Field(max_length=MAX_WITHHELD)] = ()
    """Those that were rolled back, or are being tried: newer or not, served by default only once they are pinned."""

    @model_validator(mode="after")
    def _shares_are_of_labels(self) -> Self:
        if unknown := sorted(set(self.shares) - set(self.labels)):
            raise ValueError(f"shares of {', '.join(unknown)}, which are no labels")
        if (total := _total(self.shares)) > ALL:
            raise ValueError(f"the shares are {total:g} % together: {ALL:g} % is all there is")
        return self

    def labelled(self, label: str, version: int | None, share: float = 0.0) -> "Choice":
        """With a label set, and its share, or removed where `version` is None.

        Raises `ValueError` for a label or a share that cannot be.
        """
        plain_label(label)
        labels = {key: value for key, value in self.labels.items() if key != label}
        shares = {key: value for key, value in self.shares.items() if key != label}
        if version is not None:
            labels[label] = version
            if share:
                shares[label] = share
        if len(labels) > MAX_LABELS:
            raise ValueError(f"a model has at most {MAX_LABELS} labels: remove one")
        if not 0 <= share <= ALL or _total(shares) > ALL:
            raise ValueError(f"a share of {share:g} % cannot be: all labels together may have 0…{ALL:g} %")
        return self.model_copy(update={"labels": dict(sorted(labels.items())), "shares": dict(sorted(shares.items()))})

    def pinned(self, version: int | None, left: int | None) -> "Choice":
        """With the default pinned to a version, which is withheld no more, or to none; `left` was it until now."""
        withheld = tuple(each for each in self.withheld if each != version)
        return self.model_copy(update={"default": version, "withheld": withheld}).after(left)

    def rolled_back(self, default: int | None, versions: list[int]) -> "Choice":
        """With the default pinned to the one before, or to the version before where none is remembered.

        The present one is withheld from now on. Raises `ValueError` where there is none of either among `versions`.
        """
        good = self.eligible(versions)
        previous = [version for version in self.previous if version in good and version != default]
        older = [version for version in good if default is not None and version < default]
        if not previous and not older:
            raise ValueError(f"there is no version before {default}: nothing to go back to")
        back = {"default": (previous or older)[-1], "previous": tuple(previous[:-1]), "shares": {}}
        return (self if default is None else self.withholding(default)).model_copy(update=back)

    def eligible(self, versions: list[int]) -> list[int]:
        """Those that may be served by default without being pinned."""
        return [version for version in versions if version not in self.withheld]

    def next_number(self, versions: list[int]) -> int:
        """Of the version that is published next: a number that is withheld, or has a label, is given to no other."""
        return max([*versions, *self.withheld, *self.labels.values()], default=0) + 1

    def withholding(self, version: int, withheld: bool = True) -> "Choice":
        """With a version withheld, or not any more; of very many, the oldest are forgotten."""
        others = [each for each in self.withheld if each != version]
        marks = sorted([*others, version] if withheld else others)
        return self.model_copy(update={"withheld": tuple(marks[-MAX_WITHHELD:])})

    def has_default_of(self, other: "Choice") -> bool:
        """Whether nobody has pinned a default, or remembered one, between the two."""
        return (self.default, self.previous) == (other.default, other.previous)

    def after(self, default: int | None) -> "Choice":
        """With a default that was left remembered as the last of the previous ones, and an end to all shares."""
        if default is None:
            return self
        known = self.previous[-1:] == (default,)
        previous = self.previous if known else (*self.previous, default)[-MAX_PREVIOUS:]
        return self.model_copy(update={"previous": previous, "shares": {}})

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), indent=2).encode() + b"\n"


def _total(shares: dict[Label, Share]) -> float:
    """Of all shares, rounded once: the same in any order."""
    return fsum(shares.values())


def parse_choice(content: bytes) -> Choice:
    """Raises `ValueError` where it is none."""
    return parse_note(Choice, CHOICE, content)
