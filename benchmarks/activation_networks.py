"""What each activation costs in a whole network: a ResNet-20, exported by us and plainly, with the same weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.networks import calibrated, random_pixels
from benchmarks.pairing import interleave, ratio_cell
from benchmarks.plain_export import export_plainly
from benchmarks.served_graph import BoundRun, ServedGraph
from service.runtime.provider import choose_provider
from training.classifier import PixelClassifier
from training.export.graph import ExportParityError, export
from training.progress import progress_bar
from training.resnet.network import NetworkConfig

SIZE = 32
SHAPE = (3, SIZE, SIZE)
BATCHES = (1, 8)
ROUNDS = 160
WARM_UP = 3


@dataclass(frozen=True)
class Setting:
    """A ResNet-20 to put an activation in."""

    arrangement: str
    gain: float
    """Weight of every normalisation."""

    def classifier(self, activation: str) -> PixelClassifier:
        """The network with this activation."""
        return calibrated(NetworkConfig("resnet20", activation, self.arrangement), SIZE, self.gain)


# The second is for what has no bound in the first: there a squared ReLU squares the shortcut after every sum, and
# whatever exceeds 1 overflows.
SETTINGS = (Setting("original", 1.0), Setting("full_preactivation", 0.03))


def activation_networks(keys: Sequence[str], rounds: int = ROUNDS) -> list[dict[str, str]]:
    """One row an activation and batch size: milliseconds a run, ratios, and how far the two exports' logits differ."""
    provider = choose_provider("auto")
    rows: list[dict[str, str]] = []
    with progress_bar("activation_networks") as bar:
        for done, key in enumerate(keys):
            bar.advance(done, len(keys), key)
            for row in _measure(key, provider, rounds):
                rows.append(row)
                bar.line(f"{key}, batch {row['batch']}: {row['ours ms']} ms, plain export {row['plain ms']} ms")
        bar.advance(len(keys), len(keys))
    return rows


def _measure(key: str, provider: str, rounds: int) -> Iterator[dict[str, str]]:
    setting, classifier = _finite_classifier(key)
    ours, failure = _export(key, classifier, provider)
    plain = export_plainly(classifier, SHAPE, provider)
    graphs = {"relu": _relu(setting, provider), "ours": ours, "plain": plain.graph}
    for batch in BATCHES:
        x = random_pixels(batch, SIZE)
        runs = {arm: graph.bind(x) for arm, graph in graphs.items() if graph is not None}
        times = interleave({arm: run.seconds for arm, run in runs.items()}, max(rounds // batch, 2), WARM_UP)
        yield {
            "activation": key,
            "arrangement": setting.arrangement,
            "batch": str(batch),
            "ours ms": _milliseconds(times, "ours"),
            "plain ms": _milliseconds(times, "plain"),
            "relu ms": _milliseconds(times, "relu"),
            "plain / ours": ratio_cell(times, "plain", "ours"),
            "ours / relu": ratio_cell(times, "ours", "relu"),
            "logits difference": _difference(runs),
            "rounds": str(len(times["relu"])),
            "failure": "; ".join(filter(None, (failure, plain.failure))),
        }


def _milliseconds(times: Mapping[str, NDArray[np.float64]], arm: str) -> str:
    return f"{np.median(times[arm]) * 1000:.2f}" if arm in times else "–"


def _difference(runs: Mapping[str, BoundRun]) -> str:
    if not {"ours", "plain"} <= runs.keys():
        return "–"
    return f"{np.max(np.abs(runs['ours'].output() - runs['plain'].output())):.1e}"


def _finite_classifier(key: str) -> tuple[Setting, PixelClassifier]:
    """The network in the first setting where its logits are finite, for other images too than calibrated it."""
    for setting in SETTINGS:
        classifier = setting.classifier(key)
        with torch.inference_mode():
            logits = classifier(torch.from_numpy(random_pixels(64, SIZE)))
        if bool(logits.isfinite().all()):
            break
    return setting, classifier


@cache
def _relu(setting: Setting, provider: str) -> ServedGraph:
    graph, failure = _export("relu", setting.classifier("relu"), provider)
    assert graph is not None, failure
    return graph


def _export(key: str, classifier: PixelClassifier, provider: str) -> tuple[ServedGraph | None, str]:
    """Our export, opened, or why there is none."""
    try:
        return ServedGraph(export(classifier, key, SHAPE).model, provider), ""
    except ExportParityError as error:
        return None, f"our export: {error}"
