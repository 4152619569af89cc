"""What each part of the residual family learns: `python -m benchmarks.family --folder DIR [--epochs N]`, resumable.

Every row of benchmarks/family/cases.py with one or three seeds on digits, one thread, by the same steps as `python -m
training train` and `publish`; the networks of the first seed are published, served by a real process, and each asked
for an image with the statistics of its layers. What is finished is kept in benchmarks/results/family-digits.json.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.family.cases import Case, cases
from benchmarks.family.served import served
from benchmarks.machine import describe_machine
from models.repository import ModelRepository
from training.data import digits
from training.data.images import DataSet
from training.data.sources import DataConfig
from training.export.graph import ExportParityError
from training.loop.evaluation import evaluate
from training.loop.trainer import Trainer
from training.publication.bundle import publish
from training.recipes.recipe import Recipe
from training.resnet.network import build_network
from training.run import Run, RunConfig

RESULTS = Path(__file__).parents[1] / "results" / "family-digits.json"
SEEDS = range(3)
EPOCHS = 8

Measured = dict[str, Any]


def measure(case: Case, seed: int, epochs: int, data: DataSet, folder: Path) -> Measured:
    """Train one network and, of the first seed, publish it; a loss that is no number any more is a result too."""
    name = f"{case.kind}-{case.name}".replace(", ", "-").replace(" ", "-")
    recipe = {"epochs": epochs, "seed": seed, **case.recipe}
    if recipe.get("initialiser") == "pretrained":
        recipe["pretrained"] = str(_pretrained(seed, folder, data, epochs))
    config = RunConfig(case.network, DataConfig(), Recipe(**recipe))
    run = Run(folder / "runs" / f"{name}-{seed}", config)
    build_network(case.network)  # what is refused is no result
    try:
        trainer = run.train(data, torch.device("cpu"), resume=True)
    except ValueError as error:
        return {"failed": str(error)}
    found: Measured = {
        "training_error": 1 - evaluate(_prediction(trainer), data.training).accuracy,
        "held_out_error": 1 - trainer.evaluate().accuracy,
        "training_loss": trainer.history[-1]["loss"],
        "seconds": round(trainer.seconds, 1),
    }
    if seed == 0:
        found["parameters"] = sum(parameter.numel() for parameter in trainer.model.network.parameters())
        try:
            publication = publish(run.folder, ModelRepository(folder / "models"), name)
        except ExportParityError as error:
            return found | {"refused": str(error)}
        assert publication.metrics is not None
        served_error = 1 - publication.metrics.accuracy
        found |= {"model": name, "parity": publication.parity, "served_error": served_error}
    return found


def _prediction(trainer: Trainer) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    @torch.inference_mode()
    def predict(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = trainer.averaged.eval()(torch.from_numpy(pixels).float()).numpy()
        return logits

    return predict


def _pretrained(seed: int, folder: Path, data: DataSet, epochs: int) -> Path:
    """Weights of the network of defaults after one epoch less than a half, to go on from."""
    file = folder / f"pretrained-{seed}.pth"
    if not file.exists():
        case = next(cases())
        config = RunConfig(case.network, DataConfig(), Recipe(epochs=max(1, epochs // 2 - 1), seed=seed))
        trainer = Run(folder / "runs" / f"pretrained-{seed}", config).train(data, torch.device("cpu"), resume=True)
        torch.save(trainer.model.network.state_dict(), file)
    return file


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.family", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where runs and published models are kept")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = digits.load()
    stored: dict[str, Any] = {"machine": describe_machine(), "epochs": arguments.epochs, "runs": {}}
    if RESULTS.is_file():
        stored = json.loads(RESULTS.read_text())
    for seed in SEEDS:
        for case in cases():
            key = f"{case.kind}/{case.name}/{seed}"
            if seed < case.seeds and key not in stored["runs"]:
                stored["runs"][key] = measure(case, seed, arguments.epochs, data, arguments.folder)
                _keep(stored)
                print(key, stored["runs"][key], file=sys.stderr, flush=True)
    stored["served"] = served(arguments.folder / "models")
    _keep(stored)
    print(f"{RESULTS} is complete: `make docs` makes docs/family.md of it")


def _keep(stored: dict[str, Any]) -> None:
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(json.dumps(stored, indent=2, ensure_ascii=False) + "\n")
    partial.replace(RESULTS)


if __name__ == "__main__":
    main()
