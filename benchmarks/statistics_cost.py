"""What the layer statistics cost, in sessions opened as the service opens them, and what hooks cost in PyTorch.

All arms of one network and batch size run in turn, one thread each. Full tensors are fetched as NumPy arrays, NCHW.
`torch.compile` without hooks stands for what compiling wins; hooks would break its graph at every activation.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.hooks import HookedClassifier
from benchmarks.networks import Case, random_pixels, untrained, untrained_classifier
from benchmarks.pairing import interleave, paired_ratio
from models.instrument import instrument, tapped_tensors
from models.manifest import ModelManifest
from models.statistics.layers import StatisticsReader
from models.statistics.layout import output_widths
from service.runtime.compiled import CompiledStatistics
from service.runtime.direct import DirectSession
from service.runtime.provider import CPU, choose_provider
from service.runtime.sessions import Rewire, Sessions
from training.export.graph import INPUT, OUTPUT
from training.resnet.network import NetworkConfig

Array = NDArray[np.float32]
Feed = dict[str, Array]
Arm = Callable[[Feed], Array]
Row = dict[str, str]

LAYERS = "layer statistics, compiled pass"
GRAPH = "layer statistics, reductions in the graph"
TENSORS = "full tensors to the host"
EAGER = "PyTorch eager"


CASES = (
    Case(NetworkConfig("resnet20", "relu"), 32, (1, 8, 32), 400),
    Case(NetworkConfig("resnet20", "mish", "full_preactivation"), 32, (1, 8, 32), 300),
    Case(NetworkConfig("resnet50", "relu", classes=1000), 224, (1, 8), 20),
)
FEWEST_ROUNDS = 8
# Of so many requests, one each is measured in full.
PERIODS = (10, 100)


class CountingSessions(Sessions):
    """Counts in every optimised graph the convolutions that an activation or a sum was folded into."""

    def __init__(self, provider: str, threads: int) -> None:
        super().__init__(provider, threads)
        self.fused: list[int] = []

    def open(self, graph: bytes, rewire: Rewire | None = None, capture: bool = False) -> onnxruntime.InferenceSession:
        def counted(optimised: onnx.ModelProto) -> None:
            if rewire is not None:
                rewire(optimised)
            self.fused.append(sum(map(_is_fused, optimised.graph.node)))

        return super().open(graph, counted, capture)


def _is_fused(node: onnx.NodeProto) -> bool:
    folded = len(node.input) > 3 or any(attribute.name == "activation" for attribute in node.attribute)
    return node.op_type in ("Conv", "FusedConv") and folded


def statistics_cost(cases: Sequence[Case] = CASES) -> list[Row]:
    """One row an arm: milliseconds, and the ratio to the plain run of the same framework."""
    torch.set_num_threads(1)
    return [row for case in cases for row in _measure(case)]


def _measure(case: Case) -> Iterator[Row]:
    graph, manifest = untrained(case.config, case.size)
    sessions = CountingSessions(choose_provider("auto"), threads=1)
    arms, fused = _served(sessions, graph, manifest)
    if sessions.provider == CPU:
        arms |= _hooked(case, manifest)
    for batch in case.batches:
        feed = {INPUT: random_pixels(batch, case.size)}
        rounds = max(case.rounds // batch, FEWEST_ROUNDS)
        measured = interleave({name: _timed(arm, feed) for name, arm in arms.items()}, rounds, warm_up=2)
        expected = arms["plain"](feed)
        for name, times in measured.items():
            reference = EAGER if "PyTorch" in name else "plain"
            logits = arms[name](feed)
            yield _row(case, batch, name, times, measured[reference], reference) | {
                "logits": "–" if "PyTorch" in name else "identical" if np.array_equal(logits, expected) else "differ",
                "fused convolutions": str(fused.get(name, "–")),
            }
    yield from _sampled(case, arms)


def _row(case: Case, batch: int, arm: str, times: NDArray[np.float64], reference: NDArray[np.float64], of: str) -> Row:
    return {
        "network": f"{case.config.network} {case.config.activation} {case.config.arrangement}",
        "batch": str(batch),
        "arm": arm,
        "ms": f"{np.median(times) * 1000:.3f}",
        "ratio": str(paired_ratio(times, reference)),
        "to": of,
        "rounds": str(len(times)),
        "logits": "–",
        "fused convolutions": "–",
    }


def _sampled(case: Case, arms: Mapping[str, Arm]) -> Iterator[Row]:
    """Requests of one image, of which one in so many is measured."""
    feed = {INPUT: random_pixels(1, case.size)}
    for period in PERIODS:

        def requests(first: Arm, period: int = period) -> Arm:
            return lambda feed: [first(feed), *(arms["plain"](feed) for _ in range(period - 1))][0]

        timed = {
            "plain": _timed(requests(arms["plain"]), feed),
            "plain again": _timed(requests(arms["plain"]), feed),
            f"sampled at 1/{period}": _timed(requests(arms[LAYERS]), feed),
        }
        measured = interleave(timed, max(case.rounds // 10, FEWEST_ROUNDS))
        for name, times in list(measured.items())[1:]:
            yield _row(case, 1, name, times / period, measured["plain"] / period, f"plain, {period} requests")


def _served(
    sessions: CountingSessions, graph: onnx.ModelProto, manifest: ModelManifest
) -> tuple[dict[str, Arm], dict[str, int]]:
    """The arms of ONNX Runtime, and the fused convolutions of each session."""
    names = [OUTPUT, *output_widths(manifest)]
    plain = sessions.open(graph.SerializeToString())
    reduced = sessions.open(instrument(graph, manifest).SerializeToString())
    tensors, opened = _with_tensors(graph, manifest)
    raw = sessions.open(opened.SerializeToString())
    compiled = CompiledStatistics(sessions, graph, manifest) if sessions.provider == CPU else DirectSession(reduced)
    reader = StatisticsReader(manifest)

    def answer(feed: Feed, channels: bool) -> Array:
        outputs = dict(zip(names, compiled.run(names, feed[INPUT]), strict=True))
        for row in range(len(feed[INPUT])):
            reader.image(outputs, row, channels)
        logits: Array = outputs[OUTPUT]
        return logits

    arms: dict[str, Arm] = {
        "plain": lambda feed: plain.run([OUTPUT], feed)[0],
        "plain again": lambda feed: plain.run([OUTPUT], feed)[0],
        LAYERS: lambda feed: compiled.run(names, feed[INPUT])[0],
        GRAPH: lambda feed: reduced.run(names, feed)[0],
        "layers answered per image": lambda feed: answer(feed, channels=False),
        "channels answered per image": lambda feed: answer(feed, channels=True),
        TENSORS: lambda feed: raw.run([OUTPUT, *tensors], feed)[0],
    }
    return arms, dict(zip(("plain", GRAPH, TENSORS, LAYERS), sessions.fused, strict=False))


def _with_tensors(graph: onnx.ModelProto, manifest: ModelManifest) -> tuple[list[str], onnx.ModelProto]:
    """The tensors that are measured, and the graph with them as outputs."""
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    tensors = tapped_tensors(graph, manifest)
    opened.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    return tensors, opened


def _hooked(case: Case, manifest: ModelManifest) -> dict[str, Arm]:
    """The arms of PyTorch."""
    eager, kept, items, whole = (untrained_classifier(case.config) for _ in range(4))
    hooks = HookedClassifier(kept, manifest, items=False)
    dashboard = HookedClassifier(items, manifest, items=True)
    compiled = torch.compile(whole, dynamic=False)
    return {
        EAGER: lambda feed: _infer(eager, feed),
        "PyTorch hooks, tensors kept": lambda feed: _infer(hooks, feed),
        "PyTorch hooks, .item() for each layer": lambda feed: _infer(dashboard, feed),
        "PyTorch compiled, no hooks": lambda feed: _infer(compiled, feed),
    }


def _infer(network: Callable[[torch.Tensor], torch.Tensor], feed: Feed) -> Array:
    with torch.inference_mode():
        logits: Array = network(torch.from_numpy(feed[INPUT])).numpy()
    return logits


def _timed(arm: Arm, feed: Feed) -> Callable[[], float]:
    def measure() -> float:
        started = time.perf_counter()
        arm(feed)
        return time.perf_counter() - started

    return measure
