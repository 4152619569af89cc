"""Images a second of our training loop, of a plain one, and of the data alone: `python -m benchmarks training`.

Every arm makes the same number of steps on the same images with a network that is built anew in each round; what is
built and the first step, which sets memory aside, are not timed. One thread.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.pairing import interleave, paired_ratio
from benchmarks.plain_loop import Extras, plain_loop
from models.manifest import Preprocessing
from training.data import digits
from training.data.folder import list_images
from training.data.images import DataSet, LabelledImages
from training.data.listing import Listing
from training.data.reading import read
from training.loop.batches import Batches
from training.loop.trainer import Trainer
from training.loop.watch import Moment, Watch
from training.loop.world import ALONE
from training.progress import progress_bar
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig

Row = dict[str, str]
Times = tuple[float, float]
"""Seconds by the clock and of the processor."""
Measured = Mapping[str, NDArray[np.float64]]

PREPROCESSING = Preprocessing(channels=3, height=32, width=32, resize=32)
ROUNDS = 5
DECODED = 2048
"""Files that are decoded in a round."""
PLAIN, OURS, DATA, FILES = "plain loop", "ours", "batches alone", "decoding files alone"


@dataclass(frozen=True)
class Case:
    """A network, and the steps that are timed."""

    network: str
    batch: int
    steps: int


CASES = (Case("resnet8", 32, 6), Case("resnet20", 32, 3), Case("resnet20", 128, 1))


class _DoneError(Exception):
    """Enough was timed."""


class Timer(Watch):
    """Times `steps` whole steps after the first, making their batches included, and breaks off."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.times: Times = (0.0, 0.0)

    def before_step(self, moment: Moment) -> None:
        if moment.step == 1:
            self._began = now()
        elif moment.step == 1 + self.steps:
            self.times = since(self._began)
            raise _DoneError


def now() -> Times:
    """Clock and processor time of this process."""
    return time.perf_counter(), time.process_time()


def since(began: Times) -> Times:
    """What has passed of both."""
    clock, processor = now()
    return clock - began[0], processor - began[1]


def training(folder: Path | None = None, cases: tuple[Case, ...] = CASES, rounds: int = ROUNDS) -> list[Row]:
    """A row for each way of training and each limit, of the images of `folder` or of scikit-learn's digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = load(folder, max(case.batch * (case.steps + 2) for case in cases))
        rows = [row for case in cases for row in _measure(case, data, rounds)]
        return rows + (_decoding(folder, rounds) if folder else [])
    finally:
        torch.set_num_threads(threads)


def load(folder: Path | None, images: int) -> DataSet:
    """So many images to train on, over and over where there are fewer, and a few that are held out."""
    whole = read(listing(folder, images), PREPROCESSING) if folder else digits.load()
    chosen = np.resize(np.random.default_rng(0).permutation(len(whole.training)), images)
    training, held_out = whole.training, whole.held_out
    return replace(
        whole,
        training=LabelledImages(training.pixels[chosen], training.labels[chosen]),
        held_out=LabelledImages(held_out.pixels[:16], held_out.labels[:16]),
    )


def listing(folder: Path, images: int) -> Listing:
    """At most so many images to train on and as many held-out ones, evenly spread over the classes."""
    whole = list_images(folder)
    splits = [np.flatnonzero(whole.held_out == held_out) for held_out in (False, True)]
    chosen = np.concatenate(
        [split[np.linspace(0, len(split) - 1, min(images, len(split))).astype(int)] for split in splits]
    )
    samples = list(whole.samples)
    return replace(
        whole,
        samples=[samples[index] for index in chosen],
        labels=whole.labels[chosen],
        held_out=whole.held_out[chosen],
    )


def _measure(case: Case, data: DataSet, rounds: int) -> list[Row]:
    images = case.batch * (case.steps + 2)
    data = replace(data, training=LabelledImages(data.training.pixels[:images], data.training.labels[:images]))
    config = NetworkConfig(case.network, classes=len(data.class_names), channels=data.preprocessing.channels)
    recipe = Recipe(epochs=1, batch_size=case.batch)
    bare = replace(recipe, averaging="none")
    arms: dict[str, Callable[[], Times]] = {
        PLAIN: _plain(case, config, recipe, data, Extras()),
        f"{PLAIN}, again": _plain(case, config, recipe, data, Extras()),
        f"{PLAIN}, loss read in each step": _plain(case, config, recipe, data, Extras(loss_read=True)),
        f"{PLAIN}, PyTorch's average": _plain(case, config, recipe, data, Extras(averaged=True)),
        f"{PLAIN}, channels last": _plain(case, config, recipe, data, Extras(channels_last=True)),
        f"{OURS}, without average": _ours(case, config, bare, data),
        OURS: _ours(case, config, recipe, data),
        DATA: _batches(recipe, data),
    }
    measured = interleave(arms, rounds)
    done = dict.fromkeys(arms, case.batch * case.steps) | {DATA: images}
    speeds = {name: done[name] / times for name, times in measured.items()}
    height, width = data.training.pixels.shape[2:]
    return [_row(f"{case.network}, {case.batch} images of {height}×{width}", name, speeds) for name in arms]


def _row(what: str, name: str, speeds: Measured) -> Row:
    """Images a second by the clock and of processor time, each as a ratio to the plain loop's too."""
    row = {"network": what, "arm": name}
    for column, title in enumerate(("clock", "processor")):
        row[f"images/s, {title}"] = f"{np.median(speeds[name][:, column]):,.0f}"
        if PLAIN in speeds:
            row[f"× {PLAIN}, {title}"] = str(paired_ratio(speeds[name][:, column], speeds[PLAIN][:, column]))
        else:
            row[f"× {PLAIN}, {title}"] = "–"
    return row


def _plain(case: Case, config: NetworkConfig, recipe: Recipe, data: DataSet, extras: Extras) -> Callable[[], Times]:
    def run() -> Times:
        steps = plain_loop(config, recipe, data, extras)
        next(steps)
        began = now()
        for _ in range(case.steps):
            next(steps)
        return since(began)

    return run


def _ours(case: Case, config: NetworkConfig, recipe: Recipe, data: DataSet) -> Callable[[], Times]:
    def run() -> Times:
        trainer = Trainer(config, recipe, data, torch.device("cpu"))
        timer = Timer(case.steps)
        trainer.watches.append(timer)
        with TemporaryDirectory() as directory, progress_bar("training", shown=False) as bar:
            try:
                trainer.train(Path(directory) / "checkpoint.pt", bar)
            except _DoneError:
                return timer.times
        raise AssertionError("the epoch was over before enough was timed")

    return run


def _batches(recipe: Recipe, data: DataSet) -> Callable[[], Times]:
    def run() -> Times:
        batches = Batches(data, recipe, torch.device("cpu"), ALONE)
        began = now()
        for _ in batches.epoch(0):
            pass
        return since(began)

    return run


def _decoding(folder: Path, rounds: int) -> list[Row]:
    """Files to pixels, on all cores as it is done once before training; processor time is that of all of them."""
    files = listing(folder, DECODED // 2)

    def run() -> Times:
        began = now()
        read(files, PREPROCESSING)
        return since(began)

    speeds = {name: len(files.labels) / times for name, times in interleave({FILES: run}, rounds).items()}
    return [_row("–", FILES, speeds)]
