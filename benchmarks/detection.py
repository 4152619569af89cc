"""`python -m benchmarks.detection IMAGES [--model NAME] [--save FILE]`: faults found, delays, and false alarms.

IMAGES holds one folder of images for each class. The network runs once over all images for each fault; windows are rows
of its outputs, drawn with replacement. Half of the images make the baseline, the other half is the traffic.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.faults import FAULTS, Fault
from benchmarks.machine import describe_machine
from models.diagnosis.diagnose import Diagnostician
from models.diagnosis.family import Family
from models.diagnosis.finding import Diagnosis
from models.diagnosis.hysteresis import confirmed
from models.diagnosis.rules import RULES
from models.diagnosis.thresholds import Thresholds
from models.instrument import instrument
from models.manifest import ModelManifest
from models.preprocessing import image_to_pixels, pixels_to_tensor
from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from models.statistics.baseline import Baseline
from models.statistics.head import linear_head
from models.statistics.window import Window, WindowReader
from training.activations.catalogue import find_activation
from training.export.sites import describe_site

Outputs = Mapping[str, NDArray[np.float32]]
Rows = list[dict[str, str]]

SIZES = (1000, 3000)
"""Images of a window; the second is three of the first, merged."""
BATCH = 250
SEED = 20261121
REPEATS = 6
"""Times that each fault begins."""
LEAD = 5
"""Healthy windows before it."""
WINDOWS = 6
"""Windows with it."""
SPLITS = 20
NULL_WINDOWS = 105
"""Of the smaller size, for each of `SPLITS`; of the larger a third of that."""
TIGHT = 100
"""A second budget, short enough to be seen to be kept: windows between false alarms."""


@dataclass(frozen=True)
class Network:
    """A model and its test images."""

    manifest: ModelManifest
    graph: onnx.ModelProto
    images: list[Image.Image]
    labels: NDArray[np.intp]

    def outputs(self, fault: Fault, rows: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
        """What the instrumented network puts out for these images, faults included."""
        graph = fault.weights(self.graph, self.manifest) if fault.weights else self.graph
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        content = instrument(graph, self.manifest).SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        pixels = self._pixels(fault, rows)
        parts = [
            session.run(names, {self.manifest.inputs[0].name: pixels[start : start + BATCH]})
            for start in range(0, len(pixels), BATCH)
        ]
        return {name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}

    def _pixels(self, fault: Fault, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        generator = np.random.default_rng(7)
        images = (self.images[row] for row in rows)
        changed = (fault.pixels(image, generator) if fault.pixels else image for image in images)
        pixels = np.stack([image_to_pixels(image, self.manifest.preprocessing) for image in changed])
        tensor = pixels_to_tensor(pixels, self.manifest.preprocessing)
        return fault.tensor(tensor) if fault.tensor else tensor


@dataclass(frozen=True)
class Watch:
    """A baseline and what watches windows with it."""

    reader: WindowReader
    diagnostician: Diagnostician
    thresholds: Thresholds

    @classmethod
    def over(cls, network: Network, known: Baseline, thresholds: Thresholds) -> "Watch":
        """With this baseline."""
        reader = WindowReader(network.manifest, known.outliers)
        return cls(reader, Diagnostician(network.manifest, known, thresholds), thresholds)

    def diagnose(self, outputs: Outputs, rows: NDArray[np.intp]) -> Diagnosis:
        """The window of these rows."""
        return self.diagnostician.diagnose(self.reader.of(taken(outputs, rows)))

    def confirmed(self, recent: list[Diagnosis]) -> set[str]:
        """Rules that most of the last windows agree on."""
        limits = self.thresholds
        return {f.rule for f in confirmed(recent, limits.confirmations, limits.confirmation_windows)}


def baseline_of(network: Network, outputs: Outputs) -> Baseline:
    """As at publication."""
    return Baseline.of([outputs], network.manifest, linear_head(network.graph, network.manifest))


def taken(outputs: Outputs, rows: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
    """Some images of a run."""
    return {name: values[rows] for name, values in outputs.items()}


def load(name: str, folder: Path) -> Network:
    """A model of the shelf and the images of its classes; raises `ValueError` when a class has none."""
    bundle = ModelRepository(SHIPPED_MODELS).open(name)
    images: list[Image.Image] = []
    labels: list[int] = []
    for index, label in enumerate(bundle.manifest.class_names):
        if not (files := sorted(path for path in (folder / label).glob("*") if path.is_file())):
            raise ValueError(f"{folder / label} has no images: give a folder with one folder for each class of {name}")
        for path in files:
            with Image.open(path) as opened:
                images.append(opened.convert("RGB"))
        labels += [index] * len(files)
    return Network(described(bundle.manifest), onnx.load_from_string(bundle.graph), images, np.array(labels))


def described(manifest: ModelManifest) -> ModelManifest:
    """With what the catalogue says of activations, where an older manifest does not say it."""
    sites = []
    for site in manifest.sites:
        entry = find_activation(site.activation)
        now = describe_site(site.name, site.tensor, site.activation, entry, entry.build(site.channels))
        sites.append(site if site.zero_is_dead is not None else now)
    return manifest.model_copy(update={"sites": tuple(sites)})


def detect(network: Network, clean: Outputs, generator: np.random.Generator) -> tuple[Rows, Rows]:
    """For each fault and size: in how many windows each rule spoke, and windows until an expected rule is confirmed."""
    order = generator.permutation(len(network.images))
    known, traffic = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    watch = Watch.over(network, baseline_of(network, taken(clean, known)), Thresholds())
    healthy = taken(clean, traffic)
    before = {
        size: [watch.diagnose(healthy, _drawn(generator, len(traffic), size)) for _ in range(LEAD)] for size in SIZES
    }
    matrix, delays = [], []
    for name, fault in track(FAULTS.items(), description="faults"):
        broken = healthy if fault.classes else network.outputs(fault, traffic)
        weights = np.where(np.isin(network.labels[traffic], fault.classes), 5.0, 1.0)
        for size in SIZES:
            spoke: Counter[str] = Counter()
            firsts = []
            for _ in range(REPEATS):
                recent = list(before[size])
                first = None
                for step in range(1, WINDOWS + 1):
                    rows = generator.choice(len(traffic), size, p=weights / weights.sum())
                    recent.append(watch.diagnose(broken, rows))
                    spoke.update({finding.rule for finding in recent[-1].findings})
                    if first is None and watch.confirmed(recent) & set(fault.expected):
                        first = step
                firsts.append(first)
            shares = {rule: spoke[rule] / (REPEATS * WINDOWS) for rule in RULES}
            matrix.append({"fault": name, "images": str(size), **{r: f"{100 * s:.0f}" for r, s in shares.items()}})
            found = [first for first in firsts if first is not None]
            delays.append(
                {
                    "fault": name,
                    "what": fault.description,
                    "images": str(size),
                    "expected": " or ".join(fault.expected),
                    "confirmed": f"{len(found)} of {REPEATS}",
                    "delay, windows": f"{np.mean(found):.1f}" if found else "–",
                }
            )
    return matrix, delays


def false_alarms(network: Network, clean: Outputs, generator: np.random.Generator) -> Rows:
    """Windows of healthy traffic, over several splits into baseline and traffic."""
    budget = Thresholds()
    tight = Thresholds(expected_hours_between_false_alarms=TIGHT * budget.window_seconds / 3600)
    counts = {size: Counter[str]() for size in SIZES}
    for _ in track(range(SPLITS), description="healthy traffic"):
        order = generator.permutation(len(network.images))
        known, traffic = order[: len(order) // 2], order[len(order) // 2 :]
        baseline = as_if_of_half(baseline_of(network, taken(clean, known)))
        watch, family = Watch.over(network, baseline, budget), Family(baseline, tight)
        healthy, small = taken(clean, traffic), SIZES[0]
        windows = [watch.reader.of(taken(healthy, _drawn(generator, len(traffic), small))) for _ in range(NULL_WINDOWS)]
        for size in SIZES:
            together = size // small
            merged = [
                watch.reader.merge(windows[start : start + together])
                for start in range(0, len(windows) - together + 1, together)
            ]
            counts[size] += _null_run(watch, family, merged)
    promised = budget.window_seconds / 3600 / budget.expected_hours_between_false_alarms
    return [
        {
            "images": str(size),
            "windows": str(counted["windows"]),
            "windows with a finding": str(counted["found"]),
            "by rule": ", ".join(f"{rule} {counted[rule]}" for rule in RULES if counted[rule]) or "–",
            "confirmed alarms": str(counted["confirmed"]),
            "budget": f"{counted['windows'] * promised:.2f}",
            f"onsets of significance alone, budget 1 in {TIGHT}": str(counted["tight"]),
            "budget of those": f"{counted['windows'] / TIGHT:.0f}",
        }
        for size, counted in counts.items()
    ]


def as_if_of_half(baseline: Baseline) -> Baseline:
    """The baseline with the error of two: real traffic has no error of its own, but windows that are drawn with
    replacement from as many other images share the error of those as well.
    """
    whole = baseline.window
    scalars = replace(whole.scalars, count=whole.scalars.count // 2, m2=whole.scalars.m2 / 2)
    half = replace(whole, images=whole.images // 2, predicted=whole.predicted // 2, scalars=scalars)
    return replace(baseline, window=half)


def _null_run(watch: Watch, tight: Family, windows: list[Window]) -> Counter[str]:
    """Findings, confirmed alarms, and significance (without effect) confirmed under a second budget."""
    counted: Counter[str] = Counter(windows=len(windows))
    recent: list[Diagnosis] = []
    crossed: list[bool] = []
    believed: set[str] = set()
    needed, of = watch.thresholds.confirmations, watch.thresholds.confirmation_windows
    for window in windows:
        recent.append(watch.diagnostician.diagnose(window))
        counted["found"] += bool(recent[-1].findings)
        counted.update({finding.rule for finding in recent[-1].findings})
        now = watch.confirmed(recent)
        counted["confirmed"] += len(now - believed)
        believed = now
        crossed.append(bool((np.abs(tight.shift(window).z) >= tight.threshold(window.images)).any()))
        counted["tight"] += sum(crossed[-of:]) >= needed and sum(crossed[-of - 1 : -1]) < needed
    return counted


def _drawn(generator: np.random.Generator, images: int, size: int) -> NDArray[np.intp]:
    return generator.integers(0, images, size, dtype=np.intp)


def table(title: str, rows: Rows) -> Table:
    """Without the columns in which nothing ever happened."""
    shown = Table(title=title, title_justify="left")
    columns = [column for column in rows[0] if any(row[column] != "0" for row in rows)]
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(row[column] for column in columns))
    return shown


def tables(network: Network) -> Iterator[tuple[str, str, Rows]]:
    """Key, title and rows of each."""
    clean = network.outputs(Fault("none", ()), np.arange(len(network.images)))
    matrix, delays = detect(network, clean, np.random.default_rng([SEED, 0]))
    yield "matrix", "percentage of windows in which each rule spoke", matrix
    yield "delays", "windows from the fault to the confirmed finding (3 of 5)", delays
    yield "false_alarms", "healthy traffic", false_alarms(network, clean, np.random.default_rng([SEED, 1]))


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("images", type=Path, help="a folder with one folder of images for each class")
    parser.add_argument("--model", default="cifar10-resnet20-relu", help="a model that ships")
    parser.add_argument("--save", type=Path, help="write figures, machine and versions to this JSON file")
    arguments = parser.parse_args()
    console = Console(width=220)
    machine = describe_machine()
    console.print(" · ".join(f"{key} {value}" for key, value in machine.items()), highlight=False)
    try:
        network = load(arguments.model, arguments.images)
    except ValueError as error:
        parser.error(str(error))
    results = {}
    for key, title, rows in tables(network):
        console.print(table(title, rows))
        results[key] = rows
    if arguments.save:
        what = {"model": arguments.model, "version": network.manifest.version, "images": len(network.images)}
        measured = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"measured": measured, "machine": machine, **what, "results": results}
        arguments.save.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
