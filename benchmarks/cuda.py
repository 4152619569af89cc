"""What each way of running a model on a GPU costs and brings: statistics, batches, bound memory, CUDA graphs, float16.

Every arm takes images from the host's memory and gives its answer there, as the service does. Arms of one network and
batch size run in turn.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.networks import Case, random_pixels, untrained
from benchmarks.pairing import interleave, paired_ratio
from models.instrument import instrument
from models.manifest import ModelManifest
from models.overloads import choose_overload
from models.statistics.layout import output_widths
from service.runtime.bound import BoundSession, open_bound
from service.runtime.cuda import CudaOptions
from service.runtime.device_thread import device_thread
from service.runtime.direct import DirectSession
from service.runtime.provider import CUDA
from service.runtime.sessions import Sessions
from training.export.graph import OUTPUT
from training.export.half import halve
from training.resnet.network import NetworkConfig

Array = NDArray[np.float32]
Row = dict[str, str]
Session = BoundSession | DirectSession

PLAIN = "CUDA graphs"


CASES = (
    Case(NetworkConfig("resnet20", "relu"), 32, (1, 8, 32, 128), 300),
    Case(NetworkConfig("resnet50", "relu", classes=1000), 224, (1, 8, 32), 100),
)


class Arms:
    """Sessions of one network for one batch size, each its own way. Keep it as long as they run: it owns weights."""

    def __init__(self, graph: onnx.ModelProto, manifest: ModelManifest, batch: int) -> None:
        self._graph = choose_overload(graph, "cuda")
        self._half = choose_overload(halve(graph), "cuda")
        self._manifest = manifest
        self._batch = batch
        self._kept: list[Sessions] = []

    def sessions(self) -> dict[str, tuple[Session, list[str]]]:
        """Each session with the outputs that it is asked for."""
        statistics = instrument(self._graph, self._manifest)
        half_statistics = instrument(self._half, self._manifest)
        plain, every = [OUTPUT], [OUTPUT, *output_widths(self._manifest)]
        return {
            PLAIN: (self._bound(self._graph, "on"), plain),
            f"{PLAIN}, again": (self._bound(self._graph, "on"), plain),
            "bound memory, no graphs": (self._bound(self._graph, "off"), plain),
            "not bound": (self._direct(), plain),
            "layer statistics": (self._bound(statistics, "on"), every),
            "layer statistics, no graphs": (self._bound(statistics, "off"), every),
            "TF32": (self._bound(self._graph, "on", tf32=True), plain),
            "exhaustive search": (self._bound(self._graph, "on", search="exhaustive"), plain),
            "half precision": (self._bound(self._half, "on"), plain),
            "half precision, layer statistics": (self._bound(half_statistics, "on"), every),
        }

    def _bound(self, graph: onnx.ModelProto, graphs: str, **options: object) -> BoundSession:
        cuda = CudaOptions(graphs=graphs, **options)  # type: ignore[arg-type]
        sessions = self._open(cuda)
        content = graph.SerializeToString()
        return open_bound(
            lambda capture: sessions.open(content, capture=capture), device_thread(), cuda, (self._batch,)
        )

    def _direct(self) -> DirectSession:
        return DirectSession(self._open(CudaOptions()).open(self._graph.SerializeToString()), device_thread())

    def _open(self, options: CudaOptions) -> Sessions:
        self._kept.append(Sessions(CUDA, threads=1, cuda=options))
        return self._kept[-1]


def cuda(cases: Sequence[Case] = CASES) -> list[Row]:
    """One row an arm: milliseconds a batch, images a second, the ratio to a captured plain run and the difference."""
    return [row for case in cases for row in _measure(case)]


def _measure(case: Case) -> Iterator[Row]:
    graph, manifest = untrained(case.config, case.size)
    for batch in case.batches:
        arms = Arms(graph, manifest, batch)
        sessions = arms.sessions()
        images = random_pixels(batch, case.size)
        measured = interleave({name: _timed(*arm, images) for name, arm in sessions.items()}, case.rounds, warm_up=3)
        expected = _logits(*sessions[PLAIN], images)
        for name, times in measured.items():
            off = np.abs(_logits(*sessions[name], images) - expected).max() / np.abs(expected).max()
            yield {
                "network": case.config.network,
                "batch": str(batch),
                "arm": name,
                "ms": f"{np.median(times) * 1000:.3f}",
                "images/s": f"{batch / np.median(times):,.0f}",
                "ratio": str(paired_ratio(times, measured[PLAIN])),
                "largest difference": f"{off:.1e}" if off else "none",
            }


def _logits(session: Session, outputs: list[str], images: Array) -> Array:
    return session.run(outputs, images)[0]


def _timed(session: Session, outputs: list[str], images: Array) -> Callable[[], float]:
    def measure() -> float:
        started = time.perf_counter()
        session.run(outputs, images)
        return time.perf_counter() - started

    return measure
