"""Requests a second of the whole service over a socket, against ONNX Runtime with nothing around it."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.generator import Generator
from benchmarks.networks import untrained
from benchmarks.pairing import interleave, paired_ratio
from benchmarks.requests import requests
from benchmarks.server import Server, running
from models.repository import Bundle, ModelRepository
from models.shelf import SHIPPED_MODELS
from service.runtime.cpus import available_cpus
from training.resnet.network import NetworkConfig

SHIPPED = "cifar10-resnet20-relu"
LARGE = NetworkConfig("resnet50", "relu", classes=1000)
LARGE_SIZE = 224
STARTS = 3

Row = dict[str, str]


@dataclass(frozen=True)
class Case:
    """How one network is measured."""

    title: str
    model: str
    callers: tuple[int, ...]
    seconds: float
    rounds: int


CASES = (
    Case("ResNet-20, 32 × 32", SHIPPED, callers=(1, 8, 32), seconds=2, rounds=6),
    Case("ResNet-50, 224 × 224", f"{LARGE.network}-{LARGE.activation}", callers=(1, 8), seconds=5, rounds=5),
)


def serving() -> list[Row]:
    """One row a network, kind of request and number of callers."""
    with tempfile.TemporaryDirectory() as directory:
        repository = _repository(Path(directory) / "models")
        loads = Path(directory) / "loads"
        loads.mkdir()
        with running(repository.root, PROVIDER="cpu") as server:
            rows = [row for case in CASES for row in _measure(case, repository.open(case.model), server, loads)]
    return [*rows, _start()]


def _repository(root: Path) -> ModelRepository:
    """The shipped network, and a larger one with random weights."""
    shutil.copytree(SHIPPED_MODELS / SHIPPED, root / SHIPPED)
    repository = ModelRepository(root)
    graph, manifest = untrained(LARGE, LARGE_SIZE)
    repository.publish(
        manifest.name,
        {"model.onnx": graph.SerializeToString()},
        lambda version, digests: manifest.model_copy(update={"version": version, "digests": digests}),
    )
    return repository


def _measure(case: Case, bundle: Bundle, server: Server, directory: Path) -> Iterator[Row]:
    loads = {
        (name, callers): Generator(server.port, request, callers, case.seconds, directory)
        for callers in case.callers
        for name, request in requests(bundle.manifest).items()
    }
    cpus = available_cpus()
    arms: dict[str, Callable[[], float]] = {f"{name}/{callers}": load for (name, callers), load in loads.items()}
    arms["bare"] = partial(_bare, bundle.path / bundle.manifest.graph, cpus, case.seconds)
    rates = interleave(arms, case.rounds)
    bare = rates["bare"]
    yield _row(case.title, f"bare session.run, {cpus} processes", rate=f"{np.median(bare):.0f}", share="1")
    resident, shared_once = server.memory()
    for (name, callers), load in loads.items():
        measured = load.measured[-case.rounds :]
        p50, p99 = (float(np.median([getattr(one, field) for one in measured])) for field in ("p50", "p99"))
        yield _row(
            case.title,
            name,
            callers=str(callers),
            rate=f"{np.median(rates[f'{name}/{callers}']):.0f}",
            share=str(paired_ratio(rates[f"{name}/{callers}"], bare)),
            p50=f"{p50 * 1e3:.2f}",
            p99=f"{p99 * 1e3:.2f}",
            ratio=f"{p99 / p50:.1f}",
        )
    yield _row(
        case.title, f"memory of all processes: {resident:.0f} MB, what they share counted once {shared_once:.0f} MB"
    )


def _row(
    network: str,
    what: str,
    callers: str = "",
    rate: str = "",
    share: str = "",
    p50: str = "",
    p99: str = "",
    ratio: str = "",
) -> Row:
    return {
        "network": network,
        "what": what,
        "callers": callers,
        "requests/s": rate,
        "share of bare": share,
        "p50 ms": p50,
        "p99 ms": p99,
        "p99 / p50": ratio,
    }


def _start() -> Row:
    """From the command to ready, with the models that are shipped."""
    seconds = []
    for _ in range(STARTS):
        with running(SHIPPED_MODELS, PROVIDER="cpu") as server:
            seconds.append(server.ready_seconds)
    spread = f"[{min(seconds):.2f}, {max(seconds):.2f}]"
    return _row("shipped models", f"start-up to ready: {np.median(seconds):.2f} s {spread} of {STARTS}")


def _bare(model: Path, processes: int, seconds: float) -> float:
    command = [sys.executable, "-m", "benchmarks.bare", str(model), str(processes), str(seconds)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    return float(json.loads(output.stdout)["per_second"])
