"""What probes, TensorBoard and MLflow add to whole runs of training: `python -m benchmarks probed_runs`.

Each arm trains the same network over the same steps, as `train` does: readings as often as by default, what they are
written to, checkpoints, evaluation, and the end. Seconds are those of the processor, of this process and of those that
it started apart, and of the clock until the last evaluation (MLflow may still be told then).
"""

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.pairing import interleave, paired_ratio
from models.manifest import Preprocessing
from training.activations.catalogue import find_activation
from training.data.digits import load
from training.data.images import DataSet, LabelledImages
from training.loop.trainer import Trainer
from training.probes.probing import Probing
from training.progress import progress_bar
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig
from training.tracking.keeper import About, MLflow, tracked

STEPS = 200
"""Of each run: with two readings, of the first step and of the 101st."""
ROUNDS = 4
PLAIN, AGAIN, PROBES = "plain", "plain again", "probes"
ARMS: dict[str, tuple[Probing, bool, bool]] = {
    PLAIN: (Probing(probe_every=0), False, False),
    AGAIN: (Probing(probe_every=0), False, False),
    PROBES: (Probing(), False, False),
    "probes, TensorBoard": (Probing(), True, False),
    "probes, MLflow in SQLite": (Probing(), False, True),
}
"""What is read, and whether TensorBoard and MLflow are told."""


@dataclass(frozen=True)
class Case:
    """A network and the images that it learns from."""

    network: str
    images: str
    batch: int
    data: Callable[[], DataSet]


def noise() -> DataSet:
    """As large as CIFAR's; what is on them makes no difference to the time."""
    random = np.random.default_rng(0)

    def part(count: int) -> LabelledImages:
        return LabelledImages(random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), np.arange(count) % 10)

    preprocessing = Preprocessing(channels=3, height=32, width=32, resize=32)
    return DataSet("noise", part(800), part(64), tuple("abcdefghij"), preprocessing, mirrored=True)


CASES = (Case("resnet20", "digits, 8×8", 64, load), Case("wrn_10_2", "32×32", 8, noise))


def probed_runs() -> list[dict[str, str]]:
    """Ratios of whole runs to those without probes, on one thread: of the training process, and of the clock."""
    torch.set_num_threads(1)
    return [row for case in CASES for row in _rows(case)]


def _rows(case: Case) -> list[dict[str, str]]:
    data = case.data()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = f"sqlite:///{folder}/store.db"
        taken: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}

        def run(arm: str) -> Callable[[], float]:
            def once() -> float:
                taken[arm].append(_run(case, data, arm, folder / f"{arm}{len(taken[arm])}", store))
                return taken[arm][-1]["own"]

            return once

        _run(case, data, PLAIN, folder / "warm-up", store)
        own = interleave({arm: run(arm) for arm in ARMS}, ROUNDS, warm_up=0)
    clock = {arm: np.array([each["clock"] for each in runs]) for arm, runs in taken.items()}
    apart = {arm: np.median([each["apart"] for each in runs]) for arm, runs in taken.items()}
    return [
        {
            "network": case.network,
            "images": f"{case.batch} of {case.images} a step",
            "run": arm,
            "processor, process that trains": str(paired_ratio(own[arm], own[PLAIN])),
            "clock": str(paired_ratio(clock[arm], clock[PLAIN])),
            "other processes s": f"{apart[arm]:.1f}",
            "plain run s": f"{np.median(own[PLAIN]):.1f}",
        }
        for arm in ARMS
        if arm != PLAIN
    ]


def _run(case: Case, data: DataSet, arm: str, folder: Path, store: str) -> dict[str, float]:
    probing, board, told = ARMS[arm]
    folder.mkdir()
    recipe = Recipe(iterations=STEPS, batch_size=case.batch)
    config = NetworkConfig(case.network, classes=len(data.class_names), channels=data.preprocessing.channels)
    trainer = Trainer(config, recipe, data, torch.device("cpu"))
    keeper = MLflow(folder / "mlflow", About("run", {}, {}, ()), store, _nobody) if told else None
    if board:
        probing = replace(probing, tensorboard=folder / "board")
    watches = probing.watches(find_activation("relu"), folder, _nobody, [keeper] if keeper else [])
    trainer.watches.extend(watches)
    own, apart, started = time.process_time(), _apart(), time.monotonic()
    with progress_bar("", shown=False) as bar, tracked(keeper, {}):
        trainer.train(folder / "checkpoint.pt", bar)
        clock = time.monotonic() - started
    return {"own": time.process_time() - own, "apart": _apart() - apart, "clock": clock}


def _apart() -> float:
    """Seconds of the processor in processes that were started here and are over."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _nobody(_: str) -> None:
    """Listens to no warning."""
