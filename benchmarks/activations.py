"""What each activation costs alone, and how far it is from its formula: our body against a plain export and Relu."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.one_node import activation_graph, operator_graph
from benchmarks.pairing import interleave, ratio_cell
from benchmarks.plain_export import export_plainly
from benchmarks.served_graph import ServedGraph
from service.runtime.provider import CPU, CUDA, choose_provider
from training.activations.catalogue import find_activation
from training.activations.entry import ActivationModule
from training.progress import progress_bar

SHAPE = (16, 32, 32)
# A GPU needs more elements before it is the memory that is measured, and not the launch of a kernel.
BATCHES = {CPU: 32, CUDA: 2048}
# Seconds that the runs of one measurement fill.
TOGETHER = 0.005
ROUNDS = 60

# The operator that is the very function, where the plain export writes another form, and its attributes.
STANDARD: dict[str, tuple[str, dict[str, float]]] = {
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "hard_sigmoid_02": ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
}

GRID_IMAGES = 32
SPECIAL = (0.0, -0.0, 1e-8, -1e-8, 100.0, -100.0, 1e4, -1e4)
DENSE = 30.0


def activations(keys: Sequence[str], rounds: int = ROUNDS) -> list[dict[str, str]]:
    """One row an activation: nanoseconds an input element, ratios, and the worst |y − f(x)| / (1 + |f(x)|)."""
    provider = choose_provider("auto")
    shape = (BATCHES[provider], *SHAPE)
    x = np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)
    rows = []
    with progress_bar("activations") as bar:
        for done, key in enumerate(keys):
            bar.advance(done, len(keys), key)
            rows.append(_measure(key, x, provider, rounds))
            bar.line(f"{key}: {rows[-1]['ours / relu']} × Relu, plain export {rows[-1]['plain / relu']} × Relu")
        bar.advance(len(keys), len(keys))
    return rows


def _measure(key: str, x: NDArray[np.float32], provider: str, rounds: int) -> dict[str, str]:
    module = _drawn_module(key)
    plain = export_plainly(module, SHAPE, provider)
    operator, attributes = STANDARD.get(key, ("–", {}))
    graphs = {
        "relu": ServedGraph(operator_graph("Relu", {}), provider),
        "ours": ServedGraph(activation_graph(module), provider),
    }
    if plain.graph is not None:
        graphs["plain"] = plain.graph
    if key in STANDARD:
        graphs["standard"] = ServedGraph(operator_graph(operator, attributes), provider)
    times = interleave({arm: partial(graph.bind(x).steady_seconds, TOGETHER) for arm, graph in graphs.items()}, rounds)
    return {
        "activation": key,
        "ours ns": _nanoseconds(times, "ours", x.size),
        "plain ns": _nanoseconds(times, "plain", x.size),
        "standard ns": _nanoseconds(times, "standard", x.size),
        "relu ns": _nanoseconds(times, "relu", x.size),
        "ours / relu": ratio_cell(times, "ours", "relu"),
        "plain / relu": ratio_cell(times, "plain", "relu"),
        "standard / relu": ratio_cell(times, "standard", "relu"),
        "plain / ours": ratio_cell(times, "plain", "ours"),
        "plain operators": plain.operators,
        "standard operator": operator,
        **_errors(module, graphs),
        "rounds": str(rounds),
        "failure": plain.failure,
    }


def _nanoseconds(times: Mapping[str, NDArray[np.float64]], arm: str, elements: int) -> str:
    return f"{np.median(times[arm]) / elements * 1e9:.3g}" if arm in times else "–"


def _drawn_module(key: str) -> ActivationModule:
    """The activation with its defaults; what starts at zero is drawn, so that all of the formula takes part."""
    torch.manual_seed(0)
    module = find_activation(key).build(SHAPE[0]).eval()
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return module


def _errors(module: ActivationModule, graphs: Mapping[str, ServedGraph]) -> dict[str, str]:
    x = _grid()
    with torch.no_grad():
        expected = copy.deepcopy(module).double().formula(torch.from_numpy(x).double()).numpy()

    def worst(graph: ServedGraph) -> str:
        return f"{np.max(np.abs(graph.bind(x).output() - expected) / (1 + np.abs(expected))):.1e}"

    return {f"{arm} error": worst(graphs[arm]) if arm in graphs else "–" for arm in ("ours", "plain")}


def _grid() -> NDArray[np.float32]:
    """Every value once in every channel, in an order of its own, so that channels differ at each position."""
    channels, *image = SHAPE
    positions = GRID_IMAGES * int(np.prod(image))
    values = np.concatenate([SPECIAL, np.linspace(-DENSE, DENSE, positions - len(SPECIAL))]).astype(np.float32)
    shuffled = np.random.default_rng(0).permuted(np.tile(values, (channels, 1)), axis=1)
    return np.ascontiguousarray(shuffled.reshape(channels, GRID_IMAGES, *image).swapaxes(0, 1))
