"""What each part of the residual family learns: `python -m benchmarks.family [--epochs N]`, resumable.

Every arrangement, shortcut, normaliser, initialiser and regulariser in a ResNet-8, and what the papers say fails with
depth in networks of 56 layers; digits, three seeds, one thread. Every finished run is kept at once in
benchmarks/results/family-digits.json, and is not trained again.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from training.data import digits
from training.data.images import DataSet
from training.evaluation import evaluate
from training.initialisers import INITIALISERS
from training.loop import Trainer
from training.progress import progress_bar
from training.recipe import Recipe
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.merges import MERGES
from training.resnet.network import NetworkConfig
from training.resnet.normalisers import NORMALISERS

RESULTS = Path(__file__).parent / "results" / "family-digits.json"
SEEDS = (0, 1, 2)
EPOCHS = 8


@dataclass(frozen=True)
class Case:
    """One line of the table: what differs from a ResNet-8 of defaults."""

    kind: str
    name: str
    network: str = "resnet8"
    arrangement: str = "original"
    shortcut: str = "identity"
    shortcut_parameters: dict[str, float] = field(default_factory=dict)
    normaliser: str = "batch"
    initialiser: str = "he"
    learning_rate: float = 0.1
    regularisers: dict[str, float] = field(default_factory=dict)
    recipe: dict[str, float] = field(default_factory=dict)


# Rates for so small a network, with squares that fit its maps of 8×8, 4×4 and 2×2.
REGULARISED: dict[str, dict[str, float]] = {
    "dropout": {"dropout": 0.2},
    "annealed_dropout": {"annealed_dropout": 0.4},
    "standout": {"standout": 0.3},
    "dropblock": {"dropblock": 0.1, "dropblock.size": 3},
    "disout": {"disout": 0.1, "disout.size": 3},
    "dropconnect": {"dropconnect": 0.2},
    "targeted_dropout": {"targeted_dropout": 0.5},
    "stochastic_depth": {"stochastic_depth": 0.2},
}
RECIPES: dict[str, dict[str, float]] = {
    "mixup 0.2": {"mixup_alpha": 0.2},
    "cutmix 1": {"cutmix_alpha": 1.0},
    "label smoothing 0": {"label_smoothing": 0.0},
    "weight decay 0": {"weight_decay": 0.0},
}


def _cases() -> Iterator[Case]:
    yield from (Case("arrangement", key, arrangement=key) for key in ARRANGEMENTS)
    yield from (Case("shortcut", key, shortcut=key) for key in MERGES)
    yield Case("shortcut", "exclusive_gating 0", shortcut="exclusive_gating", shortcut_parameters={"bias": 0.0})
    yield from (Case("normaliser", key, normaliser=key, learning_rate=0.02) for key in NORMALISERS if key != "fixup")
    yield Case("normaliser", "fixup", normaliser="fixup", initialiser="fixup", learning_rate=0.02)
    for key, entry in INITIALISERS.items():
        if not entry.needs_weights:
            normaliser = "fixup" if key == "fixup" else "batch"
            yield Case("initialiser", key, normaliser=normaliser, initialiser=key, learning_rate=0.02)
    yield Case("regulariser", "none")
    for key, rates in REGULARISED.items():
        yield Case("regulariser", f"{key} {rates[key]:g}", regularisers=rates)
    yield from (Case("regulariser", name, recipe=recipe) for name, recipe in RECIPES.items())
    yield from (Case("depth", name, name, learning_rate=0.1) for name in ("plain20", "plain56", "resnet20", "resnet56"))
    yield Case("depth", "resnet56 dropout", "resnet56", shortcut="dropout")
    for scales in ({"shortcut": 0.0, "branch": 1.0}, {"shortcut": 0.5, "branch": 1.0}, {}):
        name = f"resnet56 scaled {scales.get('shortcut', 0.5)}, {scales.get('branch', 0.5)}"
        yield Case("depth", name, "resnet56", shortcut="constant_scaling", shortcut_parameters=scales)


def measure(case: Case, seed: int, epochs: int, data: DataSet) -> dict[str, float | str]:
    """Train one network; a loss that is no number any more is a result too."""
    config = NetworkConfig(
        case.network,
        arrangement=case.arrangement,
        channels=1,
        shortcut=case.shortcut,
        shortcut_parameters=case.shortcut_parameters,
        normaliser=case.normaliser,
        regularisers=case.regularisers,
    )
    recipe = replace(
        Recipe(epochs=epochs, learning_rate=case.learning_rate, seed=seed, initialiser=case.initialiser),
        **case.recipe,  # type: ignore[arg-type]
    )
    trainer = Trainer(config, recipe, data, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder, progress_bar(f"{case.kind} {case.name} {seed}") as bar:
        try:
            trainer.train(Path(folder) / "checkpoint.pt", bar)
        except ValueError as error:
            return {"failed": str(error)}

    @torch.inference_mode()
    def predict(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = trainer.averaged.eval()(torch.from_numpy(pixels).float()).numpy()
        return logits

    return {
        "training_error": 1 - evaluate(predict, data.training).accuracy,
        "held_out_error": 1 - trainer.evaluate().accuracy,
        "training_loss": trainer.history[-1]["loss"],
        "seconds": round(trainer.seconds, 1),
    }


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.family", description=__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = digits.load()
    stored: dict[str, Any] = (
        json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"machine": describe_machine(), "runs": {}}
    )
    for case in _cases():
        for seed in SEEDS:
            key = f"{case.kind}/{case.name}/{case.learning_rate:g}/{arguments.epochs}/{seed}"
            if key not in stored["runs"]:
                stored["runs"][key] = measure(case, seed, arguments.epochs, data)
                partial = RESULTS.with_suffix(".partial")
                partial.write_text(json.dumps(stored, indent=2, ensure_ascii=False) + "\n")
                partial.replace(RESULTS)
    for line in summary(stored["runs"]):
        print(line)


def summary(runs: dict[str, dict[str, float | str]]) -> Iterator[str]:
    """A line of Markdown for each case: mean and range of the errors over seeds."""
    yield "| part | training error, % | held-out error, % | seeds |"
    yield "| --- | --- | --- | --- |"
    groups: dict[str, list[dict[str, float | str]]] = {}
    for key, run in runs.items():
        groups.setdefault(key.rsplit("/", 1)[0], []).append(run)
    for name, group in groups.items():
        cells = []
        for figure in ("training_error", "held_out_error"):
            values = [100 * float(run[figure]) for run in group if figure in run]
            cells.append(f"{np.mean(values):.1f} ({min(values):.1f}–{max(values):.1f})" if values else "diverged")
        yield f"| {name} | {' | '.join(cells)} | {len(group)} |"


if __name__ == "__main__":
    main()
