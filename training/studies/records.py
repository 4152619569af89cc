"""The folder of a study: one file for each finished run, and what the study was asked."""

import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training.outcomes import UnwritableError
from training.studies.case import Case


@dataclass(frozen=True)
class Records:
    """`runs/<name>.json`, written whole or not at all."""

    folder: Path

    def prepare(self, data: str, digest: str) -> None:
        """Make the folder, or check that it holds runs on the same images; raises `ValueError` otherwise."""
        path = self.folder / "study.json"
        if not path.exists():
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
            write(path, _encode({"data": data, "data_digest": digest, "machine": _machine()}))
            return
        stored = _read(path)
        if stored.get("data_digest") != digest:
            raise ValueError(
                f"{self.folder} holds runs on {stored.get('data')}, of which these images of {data} are not the same: "
                "choose another --out"
            )

    def machine(self) -> dict[str, str]:
        """Where the study was begun."""
        return dict(_read(self.folder / "study.json").get("machine", {}))

    def checkpoint(self, case: Case) -> Path:
        """Where a run that was broken off goes on from."""
        return self.folder / "runs" / f"{case.name}.pt"

    def keep(self, case: Case, found: dict[str, Any]) -> None:
        """Write what was found."""
        write(self._path(case), _encode({"case": asdict(case)} | found))

    def find(self, case: Case) -> dict[str, Any] | None:
        """What was kept of a run; None if nothing was."""
        path = self._path(case)
        return _read(path) if path.exists() else None

    def finished(self, case: Case) -> bool:
        """Whether a run need not be made again: it ended, or diverged. One that failed is tried again."""
        found = self.find(case)
        return found is not None and "failed" not in found

    def _path(self, case: Case) -> Path:
        return self.folder / "runs" / f"{case.name}.json"


def write(path: Path, content: bytes) -> None:
    """The old file or the new one whole, whenever the process dies; raises `UnwritableError` when there is no room."""
    # Named after the process: one that lost its parent may still be writing the same run.
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UnwritableError(
            f"{path} cannot be written ({error.strerror}): make room, and the same command goes on"
        ) from error


def _encode(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def _machine() -> dict[str, str]:
    found = {"processor": platform.machine(), "python": platform.python_version()}
    return found | {package: version(package) for package in ("torch", "numpy", "reslens")}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, and the study makes that run again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a run: remove it, and the study makes that run again")
    return content
