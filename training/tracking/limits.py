"""What MLflow takes, old servers included."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

METRICS = 1000
"""In one call."""
PARAMETERS = 100
NAME = 250
PARAMETER = 500
"""Characters of a parameter; newer servers take 6000."""
TAG = 5000

T = TypeVar("T")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values by dotted names, as text; what is empty or None is left out."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            found |= {f"{prefix}{name}": " ".join(map(str, value))} if value else {}
        elif value is not None:
            found[f"{prefix}{name}"] = str(value)
    return found


def named(name: str) -> str:
    """A name that every store takes: letters, digits and `_-./: `, not too long."""
    return re.sub(r"[^\w\-./: ]", "_", name, flags=re.ASCII)[:NAME]


def cut(text: str, length: int) -> str:
    """With a mark where something is missing."""
    return text if len(text) <= length else text[: length - 1] + "…"


def without_secrets(text: str) -> str:
    """Without the users and passwords of addresses; those of databases may have a / in them, or be options."""
    text = re.sub(r"//([^/\s]+|[^/:@\s]*:[^@\s]*)@", "//…@", text)
    return re.sub(r"([?&][^=&\s]*(pass|pwd|token|secret|key)[^=&\s]*=)[^&\s]*", r"\1…", text, flags=re.IGNORECASE)


def short(error: BaseException) -> str:
    """What an error says, in a line that can be read: of those of requests the cause, which stands at the end."""
    text = without_secrets(" ".join(str(error).split())) or type(error).__name__
    _, caused, cause = text.rpartition("(Caused by ")
    return cut(cause.removesuffix(")") if caused else text, 200)


def portions(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """As many at a time as one call may have."""
    kept = list(values)
    for start in range(0, len(kept), size):
        yield kept[start : start + size]
