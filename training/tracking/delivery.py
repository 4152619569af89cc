"""Sends an outbox to a store, from where it was left."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from training.tracking.limits import METRICS
from training.tracking.outbox import Line, Outbox, Sent
from training.tracking.store import RefusedError, Store

Say = Callable[[str], None]


class Delivery:
    """What was sent is not sent again; what the store may have got, though no answer came, is the same once more.

    A store keeps a point of the same step, time and value once.
    """

    def __init__(self, folder: Path, store: Store, say: Say) -> None:
        self.folder, self.store, self._say = folder, store, say
        self.outbox = Outbox(folder)
        self.key = (folder / "key").read_text().strip()
        sent = Sent.read(folder)
        # In another store nothing is known of the run.
        self.sent = sent if sent.store == store.name else Sent(store.name)

    def next(self, until: float = math.inf) -> bool:
        """Send the next lines before the position `until`, as many as one call takes; returns whether there were any.

        Raises what the store does.
        """
        lines: list[Line] = []
        points = 0
        position = self.sent.position
        for line, end in self.outbox.after(self.sent.position, until):
            size = len(line["values"]) if "of" in line else METRICS
            if lines and points + size > METRICS:
                break
            lines.append(line)
            points, position = points + size, end
        if not lines:
            return False
        if self._send(lines):
            self._mark(replace(self.sent, position=position))
        return True

    def killed(self, until: float) -> None:
        """Say that the run is over, if it did not say so itself before the position `until`."""
        last = deque((line for line, _ in self.outbox.after(0, until)), maxlen=1)
        if self.sent.run and not any("end" in line for line in last):
            self.store.end(self.sent.run, "KILLED")

    def _send(self, lines: list[Line]) -> bool:
        """Of one kind, and points only several; returns whether to go on behind them."""
        first = lines[0]
        if "of" in first:
            self._points(lines)
        elif "begin" in first:
            return self._begin(first)
        elif "end" in first:
            if wrong := self.store.keep(self.sent.run, first["artifacts"]):
                self._say(f"MLflow does not keep {', '.join(wrong)}")
            self.store.end(self.sent.run, first["end"], first["time"])
        else:
            self.store.tag(self.sent.run, first["tags"])
        return True

    def _begin(self, line: Line) -> bool:
        before = self.sent.run
        run, wrong = self.store.begin(before, self.key, line)
        if wrong:
            self._say(f"MLflow refuses parameters of the run: {wrong}")
        if before and run != before:
            self._say(f"MLflow has the run {before} no more: all of it is sent to another one, {run}")
            self._mark(Sent(self.sent.store, run))
            return False
        self._mark(replace(self.sent, run=run))
        return True

    def _points(self, lines: list[Line]) -> None:
        try:
            self.store.points(self.sent.run, lines)
        except RefusedError as error:
            points = sum(len(line["values"]) for line in lines)
            steps = f"{lines[0]['step']} to {lines[-1]['step']}"
            self._say(f"MLflow refuses {points} points of the steps {steps}, which are lost: {error}")
            self._mark(replace(self.sent, lost=self.sent.lost + points))

    def _mark(self, sent: Sent) -> None:
        self.sent = sent
        sent.write(self.folder)
