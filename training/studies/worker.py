"""The process that makes runs, one after the other, for as long as its parent lives."""

import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

import torch

from training.data.images import DataSet
from training.data.sources import DataConfig, load_data
from training.outcomes import Failure
from training.studies.case import Case
from training.studies.measurement import measure
from training.studies.records import Records


class _Silence:
    """A progress bar that nobody sees: the parent says what is done."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        pass

    def line(self, text: str) -> None:
        pass


def work(orders: Connection, folder: Path, config: DataConfig) -> None:
    """Make each run that comes over `orders`, keep it, and answer with what was kept; ends with the parent."""
    # An interrupt from the keyboard comes to the whole group: the parent says what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    data = load_data(config)
    records = Records(folder)
    try:
        while True:
            case: Case = orders.recv()
            orders.send(_run(case, data, records))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        _leave()


def _run(case: Case, data: DataSet, records: Records) -> dict[str, Any]:
    try:
        found = measure(case, data, records.checkpoint(case), _Silence())
    # Whatever becomes of one run, the others are made.
    except Exception as error:
        found = {
            "failed": str(error) if isinstance(error, ValueError | Failure) else f"{type(error).__name__}: {error}"
        }
    records.keep(case, found)
    return found


def _end_with_parent() -> None:
    """In the middle of a run too: whoever makes the study again would make the same one at the same time."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        _leave()


def _leave() -> NoReturn:
    """Without the clean-up of the interpreter: there is nobody left to care."""
    os._exit(0)
