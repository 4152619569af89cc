"""What is served changes all the time: versions are published, loaded, labelled and taken away."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.soak.asks import Ask, request
from benchmarks.soak.callers import Connection, Tally
from models.manifest import ModelManifest
from models.repository import ModelRepository


def _load(name: str, before: int) -> bytes:
    """The newest version is served, though it was rolled back, and the one before is let go."""
    pinned = json.dumps({"parameters": {"version": before + 1}}).encode()
    return request("POST", f"/v2/repository/models/{name}/load", pinned)


def _label(name: str, version: int) -> bytes:
    """The version before is loaded beside."""
    return request("PUT", f"/v1/models/{name}/labels/stable", json.dumps({"version": version}).encode())


def _rollback(name: str, _: int) -> bytes:
    """The version before is served, and the newest is let go."""
    return request("POST", f"/v1/models/{name}/rollback")


def _unlabel(name: str, _: int) -> bytes:
    return request("DELETE", f"/v1/models/{name}/labels/stable")


CHANGES: dict[str, Callable[[str, int], bytes]] = {
    "load": _load,
    "label": _label,
    "rollback": _rollback,
    "remove label": _unlabel,
}
"""In this order; each makes the request from the model's name and the version before its newest."""


class Changes:
    """Publishes every model once more, as it is, and then serves the old and the new version in turn.

    Not ever newer versions: of each that had traffic the service remembers the windows of an hour.
    """

    def __init__(self, root: Path, port: int, tally: Tally) -> None:
        self._repository = ModelRepository(root)
        self._connection = Connection(port)
        self._tally = tally
        self._versions = {name: self._publish(name) for name in self._repository.names()}
        self.made: Counter[str] = Counter()

    async def cycle(self) -> None:
        """Every change of every model, one after the other: what is served at the end is what it was before."""
        for change, make in CHANGES.items():
            for name, version in self._versions.items():
                await self._ask(change, make(name, version - 1))
        # One that is idle until the next cycle may be closed by the service at the same time.
        self._connection.close()

    async def _ask(self, change: str, message: bytes) -> None:
        ask = Ask(f"changes: {change}", message, frozenset({200, 204}))
        status, body = await self._connection.ask(message)
        if status in ask.statuses:
            self._tally.right[ask.kind] += 1
            self.made[change] += 1
        else:
            self._tally.lose(ask, f"{status} {body[:200].decode(errors='replace')}")

    def _publish(self, name: str) -> int:
        newest = self._repository.root / name / str(self._repository.versions(name)[-1])
        manifest = ModelManifest.model_validate_json((newest / "manifest.json").read_bytes())
        files = {file: (newest / file).read_bytes() for file in manifest.digests}

        def describe(version: int, digests: dict[str, str]) -> ModelManifest:
            return manifest.model_copy(update={"version": version, "digests": digests})

        return self._repository.publish(name, files, describe)
