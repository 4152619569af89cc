"""The names of classes in the order of a network's outputs, from a file or a catalogue."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BYTES = 4 << 20
MAX_CLASSES = 100_000

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}


@dataclass(frozen=True)
class Classes:
    """Names, and what folders of images may be called instead (WordNet's `n01440764`)."""

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()

    def index(self, folder: str) -> int | None:
        """The class that a folder's name means; None where that is none, or several."""
        for labels in (self.ids, self.names):
            if labels.count(folder) == 1:
                return labels.index(folder)
        return None


def find_classes(given: str) -> Classes:
    """The classes of a key of `CLASS_NAMES`, of a file, or named here with commas between them.

    Raises `ValueError` for what is none of these.
    """
    if given in CLASS_NAMES:
        return Classes(CLASS_NAMES[given])
    if "," in given and not Path(given).exists():
        return _checked(Classes(tuple(name.strip() for name in given.split(","))), "--classes")
    return read_classes(Path(given))


def number_classes(count: int) -> Classes:
    """Classes that nobody named: "0", "1", …"""
    if not 2 <= count <= MAX_CLASSES:
        raise ValueError(f"{count:,} classes are not allowed: a classifier has 2 to {MAX_CLASSES:,}")
    return Classes(tuple(map(str, range(count))))


def read_classes(path: Path) -> Classes:
    """One name a line, a JSON list of names, or the JSON index `{"0": ["n01440764", "tench"], …}`.

    Raises `ValueError` for a file that is missing, too large or none of these.
    """
    if not path.is_file():
        raise ValueError(
            f"no file of class names at {path}: give one, or one of {', '.join(CLASS_NAMES)}, or names with commas "
            "between them"
        )
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes: class names have at most {MAX_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        classes = _from_json(json.loads(text)) if text.lstrip()[:1] in ("[", "{") else _from_lines(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} holds no class names ({error}): give one a line, a JSON list, or {{index: [id, name]}}"
        ) from error
    return _checked(classes, str(path))


def check_names(names: Sequence[str], where: str) -> None:
    """Raise `ValueError` where a name is blank, or cannot be shown on one line or written in UTF-8."""
    # What is no UTF-8 in the name of a file is a surrogate here, which is not printable either.
    if bad := [name for name in names if not (name.strip() and name.isprintable())]:
        raise ValueError(f"{where} has a class without a printable name ({bad[0]!a}): give every class one")


def _checked(classes: Classes, where: str) -> Classes:
    for labels in (classes.names, classes.ids):
        check_names(labels, where)
    if len(classes.names) < 2:
        raise ValueError(f"{where} has {len(classes.names)} class names: a classifier has at least 2")
    return classes


def _from_lines(text: str) -> Classes:
    return Classes(tuple(line.strip() for line in text.rstrip().splitlines()))


def _from_json(content: Any) -> Classes:
    if isinstance(content, list):
        if not all(isinstance(name, str) for name in content):
            raise ValueError("its list has other things than strings")
        return Classes(tuple(content))
    rows = [content.get(str(index)) for index in range(len(content))]
    if not all(_is_row(row) for row in rows):
        raise ValueError(f"it has no [id, name] for each of 0 to {len(rows) - 1}")
    return Classes(names=tuple(row[1] for row in rows), ids=tuple(row[0] for row in rows))


def _is_row(row: Any) -> bool:
    return isinstance(row, Sequence) and len(row) == 2 and all(isinstance(part, str) for part in row)
