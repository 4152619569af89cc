"""How long training takes to reach an accuracy: `python -m benchmarks.speedrun FOLDER --save FILE`, resumable.

Without other options: `speedrun` to 94 % on three seeds, then ResNet-20, -56 and -110 with `he2015`, on the GPU. FOLDER
holds train/<class>/* and test/<class>/*, as CIFAR-10 in JPEGs. A run is kept in --runs after every epoch; the same
command goes on. Where the target was not reached, the table says so.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from training.commands.train import choose_device
from training.data.images import DataSet
from training.data.sources import DataConfig, load_data
from training.loop.trainer import Trainer
from training.loop.watch import Moment, Watch
from training.progress import progress_bar
from training.recipes.catalogue import find_recipe
from training.resnet.network import NetworkConfig
from training.resnet.variants import find_variant

CASES = ("speedrun:wrn_16_8:3", "he2015:resnet20", "he2015:resnet56", "he2015:resnet110")
TARGET = 0.94


@dataclass(frozen=True)
class Case:
    """A recipe on a network, and how many seeds."""

    recipe: str
    network: str
    seeds: int = 1

    @classmethod
    def parse(cls, text: str) -> "Case":
        """`recipe:network` or `recipe:network:seeds`; raises `ValueError` for what is not in the catalogues."""
        recipe, _, rest = text.partition(":")
        network, _, seeds = rest.partition(":")
        find_recipe(recipe)
        find_variant(network)
        if seeds and not (seeds.isdecimal() and int(seeds) > 0):
            raise ValueError(f"{text!r}: {seeds!r} is no number of seeds")
        return cls(recipe, network, int(seeds or 1))


@dataclass(frozen=True)
class Epoch:
    """Where a run was after one: seconds of training, evaluations of all epochs included."""

    epoch: int
    accuracy: float
    seconds: float


class Course(Watch):
    """Keeps each epoch in a file, for a run that is resumed too."""

    def __init__(self, file: Path, trainer: Trainer) -> None:
        self.file, self.trainer = file, trainer
        found = [Epoch(**each) for each in json.loads(file.read_text())] if file.exists() else []
        # What came after the checkpoint is made again.
        self.epochs = [each for each in found if each.epoch <= trainer.epoch]

    def after_epoch(self, moment: Moment, entry: dict[str, float]) -> None:  # noqa: ARG002
        self.epochs.append(Epoch(int(entry["epoch"]), entry["held_out_accuracy"], round(self.trainer.seconds, 2)))
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps([asdict(each) for each in self.epochs]))
        partial.replace(self.file)


@dataclass(frozen=True)
class Finished:
    """A run, and what of it is told."""

    case: Case
    seed: int
    target: float
    epochs: list[Epoch]

    @property
    def reached(self) -> Epoch | None:
        """The first epoch whose held-out accuracy is the target or above."""
        return next((each for each in self.epochs if each.accuracy >= self.target), None)

    def row(self) -> dict[str, str]:
        """For the table."""
        last, best, reached = self.epochs[-1], max(each.accuracy for each in self.epochs), self.reached
        return {
            "recipe": self.case.recipe,
            "network": self.case.network,
            "seed": str(self.seed),
            f"to {self.target:.0%}": f"{reached.seconds:.1f} s, epoch {reached.epoch}" if reached else "not reached",
            "at the end": f"{last.accuracy:.2%}",
            "best epoch": f"{best:.2%}",
            "epochs": str(last.epoch),
            "seconds": f"{last.seconds:.1f}",
        }


def train(
    case: Case, seed: int, target: float, data: DataSet, device: torch.device, folder: Path, epochs: int | None
) -> Finished:
    """To the last epoch, for a schedule ends there; goes on where it was broken off. `epochs` of the recipe if None."""
    recipe = replace(find_recipe(case.recipe), seed=seed)
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs, iterations=0)
    config = NetworkConfig(case.network, classes=len(data.class_names), channels=data.preprocessing.channels)
    name = f"{case.recipe}-{case.network}-{epochs or 'all'}-{seed}-{device.type}"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{name}.pt"
    trainer = Trainer(config, recipe, data, device)
    if checkpoint.exists():
        trainer.restore(checkpoint)
    course = Course(folder / f"{name}.json", trainer)
    trainer.watches.append(course)
    with progress_bar(name) as bar:
        trainer.train(checkpoint, bar)
    return Finished(case, seed, target, course.epochs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speedrun", description=__doc__)
    parser.add_argument("folder", type=Path, help="train/<class>/* and test/<class>/*")
    parser.add_argument(
        "--case",
        action="append",
        help=f"recipe:network or recipe:network:seeds; may be repeated; {' '.join(CASES)} if not given",
    )
    parser.add_argument("--target", type=float, default=TARGET, help="held-out accuracy, as 0.94")
    parser.add_argument("--epochs", type=int, help="in place of the recipes' own")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cuda")
    parser.add_argument("--runs", type=Path, default=Path("runs/speedrun"), help="folder of what is not finished yet")
    parser.add_argument("--save", type=Path, help="write figures, machine and versions to this JSON file")
    given = parser.parse_args(arguments)
    try:
        cases = [Case.parse(text) for text in given.case or CASES]
        device = choose_device(given.device)
        began = perf_counter()
        data = load_data(DataConfig("folder", data_dir=str(given.folder)))
    except ValueError as error:
        parser.error(str(error))
    decoding = perf_counter() - began
    machine = describe_machine() | {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"}
    console = Console(width=140)
    console.print(" · ".join(f"{key} {value}" for key, value in machine.items()), highlight=False)
    console.print(
        f"{len(data.training)} images to train on and {len(data.held_out)} held out, {decoding:.1f} s to decode"
    )
    finished: list[Finished] = []
    for case in cases:
        for seed in range(case.seeds):
            finished.append(train(case, seed, given.target, data, device, given.runs, given.epochs))
            if given.save:
                _save(given.save, machine, data, decoding, finished)
    console.print(_table(finished))


def _save(file: Path, machine: dict[str, str], data: DataSet, decoding: float, finished: Sequence[Finished]) -> None:
    """After each run: what is measured so far is kept."""
    content = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "data": {"name": data.name, "training": len(data.training), "held_out": len(data.held_out)},
        "decoding_seconds": round(decoding, 1),
        "runs": [asdict(run) | {"reached": None if run.reached is None else asdict(run.reached)} for run in finished],
    }
    file.write_text(json.dumps(content, indent=1) + "\n")


def _table(finished: Sequence[Finished]) -> Table:
    rows = [run.row() for run in finished]
    table = Table(title="time to an accuracy: seconds of training and evaluation, data in memory", title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    return table


if __name__ == "__main__":
    main()
