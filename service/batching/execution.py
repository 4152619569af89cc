"""One run for several requests: their images together, and to each its own outputs. Synchronous."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from service.batching.entry import Entry, Inference, Ran
from service.errors import DeviceMemoryError
from service.runtime.model import Tensors
from service.runtime.observation import run

Waiting = Sequence[Entry[Inference]]


def execute(entries: Waiting) -> list[Ran | Exception]:
    """Run the model once for all entries, which have one key; what fails together is tried one by one.

    The results are in the order of the entries: a failure is of that entry alone.
    """
    started = time.perf_counter_ns()
    if len(entries) == 1:
        return [_alone(entries[0])]
    outputs = tuple(dict.fromkeys(name for entry in entries for name in entry.payload.outputs))
    try:
        together = np.concatenate([entry.payload.tensor for entry in entries])
        values = _run(entries[0].payload._replace(tensor=together, outputs=outputs))
        return _share(entries, values, started, time.perf_counter_ns() - started)
    # Whatever it was, the others are not to suffer from it.
    except Exception:
        return [_alone(entry) for entry in entries]


def call(entries: Sequence[Entry[Callable[[], object]]]) -> list[object]:
    """Other work: the functions themselves. Returns what they return or raise."""
    results: list[object] = []
    for entry in entries:
        try:
            results.append(entry.payload())
        except Exception as error:
            results.append(error)
    return results


def _alone(entry: Entry[Inference]) -> Ran | Exception:
    started = time.perf_counter_ns()
    try:
        values = _run(entry.payload)
    except Exception as error:
        return error
    return Ran(values, started - entry.came_ns, time.perf_counter_ns() - started, entry.images)


def _run(request: Inference) -> Tensors:
    """As `observation.run`; what the device has no memory for is halved. One image alone raises `DeviceMemoryError`."""
    try:
        return run(*request)
    except DeviceMemoryError:
        if len(request.tensor) == 1:
            raise
        halves = np.array_split(request.tensor, 2)
    first, second = (_run(request._replace(tensor=half)) for half in halves)
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def _share(entries: Waiting, values: Tensors, started: int, infer_ns: int) -> list[Ran | Exception]:
    """To each entry the rows of its images, of the outputs that it asked for."""
    results: list[Ran | Exception] = []
    batch = sum(entry.images for entry in entries)
    row = 0
    for entry in entries:
        rows = slice(row, row + entry.images)
        own = {name: values[name][rows] for name in entry.payload.outputs}
        results.append(Ran(own, started - entry.came_ns, infer_ns, batch, runs=int(row == 0)))
        row += entry.images
    return results
