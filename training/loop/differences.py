"""What differs between what was stored and what is asked for, in words."""

from collections.abc import Mapping
from typing import Any


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One phrase for each entry, of nested ones by their whole path, in the order of `wanted`."""
    found = []
    # Parameters that the stored run has and this one lacks count as much as the other way round.
    for key in {**wanted, **stored}:
        was, asked = stored.get(key), wanted.get(key)
        if isinstance(asked, Mapping) and isinstance(was, Mapping):
            found += differences(was, asked, f"{prefix}{key}.")
        elif was != asked:
            found.append(f"{prefix}{key} was {was!r}, now {asked!r}")
    return found
