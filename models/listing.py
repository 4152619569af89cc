"""What lies at a remote, by model and version: of all that is there, what may be part of a repository."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from models.choice import CHOICE
from models.manifest import plain_name
from models.policy import POLICY
from models.publishing import VERSION

# What changes with the content of a file, in the words of S3, GCS, Azure and others; the first that is there counts.
MARKS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modified", "created")


class RemoteFile(NamedTuple):
    size: int
    mark: str


@dataclass
class RemoteModel:
    versions: dict[int, dict[str, RemoteFile]] = field(default_factory=dict)
    """Files by version and name."""
    notes: dict[str, str] = field(default_factory=dict)
    """The marks of the files beside the versions: what is chosen, and the policy."""


Listing = dict[str, RemoteModel]


def listed(found: Mapping[str, Mapping[str, Any]], base: str) -> Listing:
    """Sort what fsspec found below `base`; names that no repository could have are left out, and so are links."""
    listing: Listing = {}
    for path, info in found.items():
        parts = path.removeprefix(base).strip("/").split("/")
        if info.get("type") != "file" or info.get("islink") or not 2 <= len(parts) <= 3 or not _plain(*parts):
            continue
        file = RemoteFile(int(info.get("size") or 0), _mark(info))
        model = listing.setdefault(parts[0], RemoteModel())
        if len(parts) == 2 and parts[1] in (CHOICE, POLICY):
            model.notes[parts[1]] = f"{file.size}:{file.mark}"
        elif len(parts) == 3 and VERSION.fullmatch(parts[1]):
            model.versions.setdefault(int(parts[1]), {})[parts[2]] = file
    return {name: model for name, model in listing.items() if model.versions}


def _mark(info: Mapping[str, Any]) -> str:
    return next((str(info[mark]) for mark in MARKS if info.get(mark)), "")


def _plain(*names: str) -> bool:
    try:
        return all(plain_name(name) for name in names)
    except ValueError:
        return False
