"""What is served changes all the time: versions are published, loaded, labelled and taken away."""

import asyncio
import contextlib
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

from benchmarks.soak.asks import OK, Ask, request
from benchmarks.soak.callers import Connection, Tally
from models.manifest import ModelManifest
from models.repository import ModelRepository

KEPT = 3


class Changes:
    """Publishes the models of a repository again and again, each as it is, and loads the new version."""

    def __init__(self, root: Path, port: int, tally: Tally) -> None:
        self._repository = ModelRepository(root)
        self._connection = Connection(port)
        self._tally = tally
        self.made: Counter[str] = Counter()

    async def run(self, pause: float, over: asyncio.Event) -> None:
        """One change after another, with a pause between, until it is over."""
        for name in itertools.cycle(self._repository.names()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), pause)
            if over.is_set():
                break
            await self._change(name)

    async def _change(self, name: str) -> None:
        version = await asyncio.to_thread(self._publish, name)
        await self._ask("load", request("POST", f"/v2/repository/models/{name}/load"))
        body = json.dumps({"version": version}).encode()
        await self._ask("label", request("PUT", f"/v1/models/{name}/labels/stable", body))
        await asyncio.to_thread(self._drop_oldest, name)

    async def _ask(self, change: str, message: bytes) -> None:
        ask = Ask(f"changes: {change}", message, OK)
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

    def _drop_oldest(self, name: str) -> None:
        for version in self._repository.versions(name)[:-KEPT]:
            shutil.rmtree(self._repository.root / name / str(version))
