"""How well images of another kind are told: `python -m benchmarks.outliers [--cifar FOLDER] [--save FILE]`.

Part of the held-out images calibrates, as at publication; the others, and images that the model was not made for, are
judged. Prints the AUROC of every score, and the share of held-out images that are wrongly called unusual at p < 0.01.
FOLDER holds <class>/* image files, CIFAR-10's test images; without it only the digits are judged.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from benchmarks.shifts import SHIFTS, Pixels, enlarged_digits, photographs
from models.instrument import instrument
from models.preprocessing import image_to_pixels, pixels_to_tensor
from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from models.statistics.features import Features
from models.statistics.head import linear_head
from models.statistics.outliers import OutlierModel, Outlierness
from models.statistics.window import UNUSUAL
from training.data import digits
from training.export.graph import INPUT, open_session

BATCH = 100
UNKNOWN = 2000
"""Images of each other kind."""
SPLITS = 20
"""Of the few digits; the figures are means over them."""

Rows = list[dict[str, str]]
Values = NDArray[np.float64]


class Network:
    """A shipped model that reduces images to what is judged."""

    def __init__(self, name: str) -> None:
        bundle = ModelRepository(SHIPPED_MODELS).open(name)
        self.graph, self.manifest = onnx.load_from_string(bundle.graph), bundle.manifest
        self._session = open_session(instrument(self.graph, self.manifest))
        self._outputs = [output.name for output in self._session.get_outputs()]

    def features(self, pixels: Pixels) -> Features:
        """Of uint8 images."""
        parts = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
        tensors = (pixels_to_tensor(part, self.manifest.preprocessing) for part in parts)
        runs = (self._session.run(self._outputs, {INPUT: tensor}) for tensor in tensors)
        return Features.joined(Features.of(dict(zip(self._outputs, run, strict=True)), self.manifest) for run in runs)

    def calibrated(self, known: Features) -> OutlierModel:
        """Fitted to one half of `known` and calibrated with the other."""
        return OutlierModel.fitted(known, self.manifest, linear_head(self.graph, self.manifest))


def auroc(known: Values, unknown: Values) -> float:
    """P(p of a known image > p of an unknown one), ties counted half."""
    ordered = np.sort(known)
    below, up_to = (np.searchsorted(ordered, unknown, side) for side in ("left", "right"))
    return float(1 - (below + up_to).mean() / (2 * len(known)))


def judged(network: Network, known: Outlierness, unknown: Outlierness) -> dict[str, float]:
    """The AUROC of every score, of the layer that tells them best also its name, and the share of p < `UNUSUAL`."""
    layers = [auroc(known.layers[:, k], unknown.layers[:, k]) for k in range(known.layers.shape[1])]
    best = int(np.argmax(layers))
    return {
        "combined": auroc(known.combined, unknown.combined),
        f"best layer: {network.manifest.sites[best].name}": layers[best],
        **{name: auroc(values, unknown.head[name]) for name, values in known.head.items()},
        "p < 0.01": float((unknown.combined < UNUSUAL).mean()),
    }


def of_digits() -> Rows:
    """The digits network: random halves of its held-out digits against the others and against photographs."""
    network = Network("digits")
    known = network.features(digits.load().held_out.pixels)
    others = network.features(photographs(UNKNOWN, 8, 1))
    random, results, wrong = np.random.default_rng(0), [], []
    for _ in range(SPLITS):
        order = random.permutation(len(known.logits))
        calibrating, rest = (known[rows] for rows in np.split(order, [2 * len(order) // 3]))
        model = network.calibrated(calibrating)
        usual = model.judge(rest)
        results.append(list(judged(network, usual, model.judge(others)).values()))
        wrong.append((usual.combined < UNUSUAL).mean())
    names = ["combined", "best layer", *usual.head, "p < 0.01"]
    means = dict(zip(names, np.mean(results, 0).tolist(), strict=True))
    return [_row("held-out digits", {"p < 0.01": float(np.mean(wrong))}), _row("patches of photographs", means)]


def of_cifar(folder: Path) -> Rows:
    """The CIFAR network: half of the test images against the other half, changed, and against other images."""
    network = Network("cifar10-resnet20-relu")
    files = [path for path in sorted(folder.glob("*/*")) if path.is_file()]
    if len(files) < 8:
        raise ValueError(f"{folder} holds {len(files)} images: expected <class>/* files, those of CIFAR-10's test set")
    pixels = np.array([image_to_pixels(Image.open(path), network.manifest.preprocessing) for path in files])
    pixels = pixels[np.random.default_rng(0).permutation(len(pixels))]
    calibrating, rest = np.array_split(pixels, 2)
    model = network.calibrated(network.features(calibrating))
    usual = model.judge(network.features(rest))
    kinds = {name: change(rest[:UNKNOWN]) for name, change in SHIFTS.items()} | {
        "digits, enlarged": enlarged_digits(UNKNOWN, 32),
        "patches of photographs": photographs(UNKNOWN, 32, 3),
    }
    rows = [_row("held-out images", {"p < 0.01": float((usual.combined < UNUSUAL).mean())})]
    for name, others in kinds.items():
        rows.append(_row(name, judged(network, usual, model.judge(network.features(others)))))
    return rows


def _row(images: str, figures: Mapping[str, float]) -> dict[str, str]:
    """One line of the table; the layer that tells best is named beside its figure."""
    row = {"images": images} | dict.fromkeys(_columns(), "–")
    for name, value in figures.items():
        column, _, layer = name.partition(": ")
        row[column] = f"{value:.1%}" if column == "p < 0.01" else f"{value:.3f} {layer}".strip()
    return row


def _columns() -> Iterable[str]:
    return ("combined", "best layer", "energy", "react", "mahalanobis", "p < 0.01")


def _table(model: str, rows: Rows) -> Table:
    table = Table(title=f"{model}: AUROC of its scores against held-out images", title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    return table


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outliers", description=__doc__)
    parser.add_argument("--cifar", type=Path, metavar="FOLDER", help="<class>/* image files, CIFAR-10's test images")
    parser.add_argument("--save", type=Path, help="write figures, machine and versions to this JSON file")
    arguments = parser.parse_args()
    machine = describe_machine()
    results = {"digits": of_digits()}
    if arguments.cifar:
        results["cifar10-resnet20-relu"] = of_cifar(arguments.cifar)
    console = Console(width=160)
    for name, rows in results.items():
        console.print(_table(name, rows))
    if arguments.save:
        measured = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "results": results}
        arguments.save.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
