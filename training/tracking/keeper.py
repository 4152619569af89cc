"""Puts what is known of a run into its outbox, and has it sent."""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.loop.watch import Moment
from training.outcomes import StoppedError, ending
from training.probes.keepers import Keeper, scalars
from training.probes.reading import NetworkReading
from training.tracking.courier import Courier
from training.tracking.outbox import Outbox, Sent, newest

READINGS = "probes"


@dataclass(frozen=True)
class About:
    """What does not change while a run goes on."""

    name: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    artifacts: tuple[Path, ...]
    """Files that are kept beside the run when it ends, those of them that there are."""


class MLflow(Keeper):
    """Everything goes to a file; a process of its own reads it and sends it on, as far as the store can be reached."""

    def __init__(self, folder: Path, about: About, store: str | None, say: Callable[[str], None]) -> None:
        self.folder, self.about = folder, about
        self._store, self._say = store, say
        self._outbox = Outbox(folder)
        self._courier: Courier | None = None
        self._newest: dict[str, int] = {}
        self._tagged: set[str] = set()
        self._lost = 0

    def begin(self, step: int) -> None:  # noqa: ARG002
        """What was told of later steps before stays: the same comes once more, and is left out."""
        try:
            self._outbox.repair()
            key = self.folder / "key"
            if not key.exists():
                key.write_text(uuid.uuid4().hex)
        except OSError as error:
            self._say(f"warning: MLflow is not told: {self.folder} cannot be written ({error})")
            return
        self._newest = newest(line for line, _ in self._outbox.after(0))
        before = (line for line, _ in self._outbox.after(0) if "begin" not in line)
        self._tagged = {name for line in before for name in line.get("tags", ())}
        about = {"name": self.about.name, "parameters": self.about.parameters, "tags": self.about.tags}
        self._add({"begin": _now(), **about})
        try:
            self._courier = Courier(self.folder, self._store, self._say)
        except OSError as error:
            self._say(f"warning: MLflow is not told: no process can be started that sends ({error})")

    def keep(self, moment: Moment, reading: NetworkReading, found: dict[str, str]) -> None:
        self.tell(READINGS, moment.step, scalars(reading))
        tags = {f"warning.{kind}": f"step {moment.step + 1}: {sentence}" for kind, sentence in found.items()}
        if new := {name: text for name, text in tags.items() if name not in self._tagged}:
            self._tagged |= set(new)
            self._add({"tags": new})

    def tell(self, series: str, step: int, values: Mapping[str, float]) -> None:
        if step > self._newest.get(series, -1):
            self._newest[series] = step
            self._add({"of": series, "step": step, "time": _now(), "values": dict(values)})

    def end(self, error: BaseException | None, report: Mapping[str, Any]) -> None:
        """Say how the run ended, and wait for what is not sent yet, within bounds; nothing if it did not begin."""
        if self._courier is None:
            return
        stopped = isinstance(error, StoppedError | KeyboardInterrupt)
        status = "FINISHED" if error is None else "KILLED" if stopped else "FAILED"
        path = self.folder / "report.json"
        files = [str(file.resolve()) for file in (*self.about.artifacts, path)]
        try:
            path.write_text(json.dumps(ending(error) | dict(report), indent=2) + "\n")
        except OSError as full:
            self._say(f"warning: {path} cannot be written: {full}")
        self._add({"end": status, "time": _now(), "artifacts": files})
        self._courier.close()
        if self._lost:
            self._say(f"warning: {self._lost} points could not be written to {self.folder}, and MLflow never gets them")
        if (sent := Sent.read(self.folder)).run:
            self._say(f"MLflow has it as run {sent.run} in {sent.store}")

    def _add(self, line: Mapping[str, Any]) -> None:
        try:
            self._outbox.add(line)
        except OSError as error:
            if not self._lost:
                self._say(f"warning: what MLflow is to be told cannot be written ({error}): training goes on")
            self._lost += max(len(line.get("values", ())), 1)


@contextmanager
def tracked(keeper: MLflow | None, report: Mapping[str, Any]) -> Iterator[None]:
    """Tells how the block ended, and what is in the report by then."""
    try:
        yield
    except BaseException as error:
        if keeper:
            keeper.end(error, report)
        raise
    if keeper:
        keeper.end(None, report)


def _now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
