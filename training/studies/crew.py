"""Several worker processes that share the runs of a study."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from training.data.sources import DataConfig
from training.studies.case import Case
from training.studies.records import Records
from training.studies.worker import work

Told = Callable[[Case, dict[str, Any]], None]


class Crew:
    """At most `jobs` processes of one thread each; one that dies loses its run alone, and another takes its place."""

    def __init__(self, folder: Path, data: DataConfig, jobs: int) -> None:
        self.folder, self.data, self.jobs = folder, data, jobs
        # Not forked: PyTorch's threads do not survive that.
        self._context = multiprocessing.get_context("spawn")

    def run(self, cases: Sequence[Case], tell: Told) -> None:
        """Make all runs; `tell` is called with each that ended, whatever became of it."""
        waiting = list(reversed(cases))
        members: dict[Connection, Member] = {}
        try:
            for _ in range(min(self.jobs, len(waiting))):
                self._engage(members, waiting.pop())
            while members:
                for connection in wait_for(list(members)):
                    assert isinstance(connection, Connection)
                    member = members[connection]
                    found = member.answer()
                    if found is None:
                        del members[connection]
                        found = {"failed": f"its process ended with {member.end()}"}
                        Records(self.folder).keep(member.case, found)
                    tell(member.case, found)
                    self._go_on(members, member, waiting)
        finally:
            for member in members.values():
                member.dismiss()

    def _go_on(self, members: "dict[Connection, Member]", member: "Member", waiting: list[Case]) -> None:
        here = member.connection in members
        if waiting and here:
            member.order(waiting.pop())
        elif waiting:
            self._engage(members, waiting.pop())
        elif here:
            del members[member.connection]
            member.dismiss()

    def _engage(self, members: "dict[Connection, Member]", case: Case) -> None:
        ours, theirs = self._context.Pipe()
        # Before PyTorch is imported there: one thread each.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        process = self._context.Process(target=work, args=(theirs, self.folder, self.data), daemon=True)
        process.start()
        # The last copy of the other end must be the worker's: its death is seen by that.
        theirs.close()
        members[ours] = Member(process, ours, case)


class Member:
    """One worker process, and the run that it is at."""

    def __init__(self, process: Any, connection: Connection, case: Case) -> None:
        self.process, self.connection = process, connection
        self.order(case)

    def order(self, case: Case) -> None:
        """Have it make a run."""
        self.case = case
        # If it is gone already, its end of the connection says so.
        try:
            self.connection.send(case)
        except (BrokenPipeError, ConnectionResetError):
            return

    def answer(self) -> dict[str, Any] | None:
        """What it found; None if it is gone."""
        try:
            found: dict[str, Any] = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return None
        return found

    def end(self) -> str:
        """How it came to an end, in words."""
        self.process.join()
        code = self.process.exitcode
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def dismiss(self) -> None:
        """It has nothing to do any more; a run that it is at is broken off."""
        self.process.terminate()
        self.process.join()
        self.connection.close()
