"""What each regulariser does for a small network on few images: `python -m benchmarks.regularisers FOLDER`.

Every setting is trained with three seeds on the digits of scikit-learn. Runs are kept in FOLDER: what is there is
gone on with, and what has ended is read.
"""

import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from training.commands.train import choose_device
from training.data.sources import DataConfig, load_data
from training.recipe import Recipe
from training.resnet.network import NetworkConfig
from training.run import Run, RunConfig

SEEDS = (0, 1, 2)
EPOCHS = 10


@dataclass(frozen=True)
class Setting:
    """What differs from one row to the next."""

    regularisers: Mapping[str, float] = field(default_factory=dict)
    recipe: Mapping[str, float] = field(default_factory=dict)


SETTINGS: dict[str, Setting] = {
    "none": Setting(),
    "dropout 0.2": Setting({"dropout": 0.2}),
    "annealed_dropout 0.4": Setting({"annealed_dropout": 0.4}),
    "standout 0.3": Setting({"standout": 0.3}),
    "dropblock 0.1, size 3": Setting({"dropblock": 0.1, "dropblock.size": 3}),
    "disout 0.1, size 3": Setting({"disout": 0.1, "disout.size": 3}),
    "dropconnect 0.2": Setting({"dropconnect": 0.2}),
    "targeted_dropout 0.5": Setting({"targeted_dropout": 0.5}),
    "stochastic_depth 0.2": Setting({"stochastic_depth": 0.2}),
    "mixup 0.2": Setting(recipe={"mixup_alpha": 0.2}),
    "cutmix 1": Setting(recipe={"cutmix_alpha": 1.0}),
    "label smoothing 0": Setting(recipe={"label_smoothing": 0.0}),
    "weight decay 0": Setting(recipe={"weight_decay": 0.0}),
}


def trained(folder: Path, setting: Setting, seed: int) -> dict[str, float]:
    """The last entry of the history of one run: loss in training, loss and accuracy on held-out images."""
    recipe = Recipe(**{"epochs": EPOCHS, "seed": seed, **setting.recipe})  # type: ignore[arg-type]
    data = load_data(DataConfig())
    network = NetworkConfig("resnet8", classes=10, channels=1, regularisers=setting.regularisers)
    run = Run(folder, RunConfig(network, DataConfig(), recipe))
    if not run.record.exists():
        run.train(data, choose_device("cpu"), resume=True)
    entry: dict[str, float] = json.loads(run.record.read_text())["history"][-1]
    return entry


def rows(folder: Path) -> list[dict[str, str]]:
    """Mean over the seeds, and each seed's accuracy."""
    found = []
    for name, setting in SETTINGS.items():
        plain = name.replace(" ", "_").replace(",", "")
        entries = [trained(folder / f"{plain}-{seed}", setting, seed) for seed in SEEDS]
        accuracies = [entry["held_out_accuracy"] for entry in entries]
        found.append(
            {
                "setting": name,
                "accuracy": f"{statistics.mean(accuracies):.2%}",
                "by seed": ", ".join(f"{accuracy:.2%}" for accuracy in accuracies),
                "held-out loss": f"{statistics.mean(entry['held_out_loss'] for entry in entries):.3f}",
                "training loss": f"{statistics.mean(entry['loss'] for entry in entries):.3f}",
            }
        )
    return found


def main() -> None:
    """Run as a program."""
    torch.set_num_threads(1)
    found = rows(Path(sys.argv[1]))
    table = Table(
        *found[0], title=f"ResNet-8 on digits, {EPOCHS} epochs, {len(SEEDS)} seeds, torch {torch.__version__}"
    )
    for row in found:
        table.add_row(*row.values())
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
