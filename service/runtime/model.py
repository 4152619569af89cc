"""A model that is ready to answer: verified, loaded, warmed up."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from models.instrument import element_types, instrument, tapped_tensors
from models.manifest import ModelManifest, TensorSpec
from models.overloads import choose_overload
from models.preprocessing import pixels_to_tensor
from models.repository import Bundle
from models.statistics.layers import StatisticsReader
from models.statistics.layout import output_widths
from service.runtime.bound import BoundSession, open_bound
from service.runtime.compiled import CompiledStatistics
from service.runtime.cuda import CudaOptions
from service.runtime.device_thread import device_thread
from service.runtime.direct import DirectSession
from service.runtime.failures import fault
from service.runtime.inspection import (
    check_channels,
    check_manifest,
    check_signature,
    parse_graph,
    refuse_external_data,
)
from service.runtime.precision import Precision, choose_precision
from service.runtime.provider import CPU, CUDA
from service.runtime.reference import Reference
from service.runtime.sessions import Sessions

Tensors = Mapping[str, NDArray[np.float32]]

# The bodies of activations that are made for a provider.
OVERLOADS = {CPU: "cpu", CUDA: "cuda"}
# Batch sizes of the warm-up on the CPU, which chooses nothing by size: two, so that a batch size frozen into the graph
# is found out.
CPU_BUCKETS = (1, 2)
# Runs of one image that are timed, after the warm-up.
TIMED_RUNS = 5
# Both sessions run the same kernels on the same weights. On the CPU their logits were bit-identical in every model
# tried; the bound leaves room for another algorithm being chosen on a GPU.
PARITY = 1e-4
# With 11 bits of mantissa, relative to the largest logit.
COARSE_PARITY = 1e-2


NO_OPTIONS = CudaOptions()

Check = Callable[[onnxruntime.InferenceSession], None]


class Memory(NamedTuple):
    """Bytes of weights held on the CPU."""

    weights: int
    """The plain session's."""
    statistics: int
    """What the instrumented session adds to them."""


class LoadedModel:
    """Two sessions of one model: the plain one, and the one that also puts out statistics.

    Safe to call from several threads. Raises from the constructor whatever is wrong with the model.
    """

    def __init__(
        self, bundle: Bundle, provider: str, threads: int, max_batch: int = 2, cuda: CudaOptions = NO_OPTIONS
    ) -> None:
        """On CUDA every batch size up to `max_batch` is made ready as far as there is memory."""
        started = time.perf_counter()
        self.manifest: ModelManifest = bundle.manifest
        self.key = (bundle.manifest.name, bundle.manifest.version)
        self.reader = StatisticsReader(bundle.manifest)
        self.reference = Reference.of(bundle)
        self.statistics = tuple(
            TensorSpec(name=name, datatype="FP32", shape=(-1, width))
            for name, width in output_widths(bundle.manifest).items()
        )
        """The outputs that only the instrumented session has."""
        self.output_names = tuple(spec.name for spec in bundle.manifest.outputs)
        self.statistics_names = tuple(spec.name for spec in self.statistics)
        self.logits_name = bundle.manifest.logits.name
        self.plain_names = frozenset(self.output_names)
        check_manifest(bundle.manifest)
        self._sessions = Sessions(provider, threads, cuda)
        graph = self.graph_of(bundle)
        self._max_batch = max_batch
        self._plain = self._open_plain(graph)
        weights = self._sessions.weight_bytes
        self._instrumented = self._open_instrumented(graph)
        self.memory = Memory(weights, self._sessions.weight_bytes - weights)
        self.buckets = self._common_sizes()
        """Batch sizes that were run at load, smallest first."""
        for batch in self.buckets:
            self._warm_up(batch)
        self.run_seconds = self._time_one_image()
        """Seconds of a plain run of one image; the median of a few."""
        self.load_seconds = time.perf_counter() - started

    @property
    def provider(self) -> str:
        return self._sessions.provider

    @property
    def cuda(self) -> CudaOptions:
        return self._sessions.cuda

    @property
    def precision(self) -> Precision:
        """Of the graph that runs: `fp32` or `fp16`. Inputs and outputs are float32 in both."""
        return choose_precision(self.manifest, self.provider, self.cuda.precision)

    @property
    def device(self) -> str:
        """What it runs on: `cpu`, or a CUDA device as `cuda:0`."""
        return "cpu" if self.provider == CPU else f"cuda:{self._sessions.cuda.device}"

    def run(self, tensor: NDArray[np.float32], outputs: Sequence[str]) -> Tensors:
        """Run a batch and return the outputs asked for; only when a statistic is among them is it computed at all.

        Raises `ModelFaultError` when ONNX Runtime fails, `DeviceMemoryError` when it is for want of memory.
        """
        plain = self.plain_names.issuperset(outputs)
        try:
            values = (self._plain if plain else self._instrumented).run(outputs, tensor)
        # ONNX Runtime's exceptions have no base of their own.
        except Exception as error:
            raise fault(self.manifest.name, len(tensor), error) from error
        return dict(zip(outputs, values, strict=True))

    def graph_of(self, bundle: Bundle) -> onnx.ModelProto:
        """The graph of this model's bundle as it runs here: its precision, and the bodies of its activations."""
        content = bundle.half if self.precision == "fp16" else bundle.graph
        assert content is not None
        graph = parse_graph(content)
        refuse_external_data(graph)
        return choose_overload(graph, OVERLOADS[self.provider])

    def _open_plain(self, graph: onnx.ModelProto) -> DirectSession | BoundSession:
        def check(session: onnxruntime.InferenceSession) -> None:
            check_signature(session, self.manifest.inputs, self.manifest.outputs)

        return self._open(graph, check)

    def _open_instrumented(self, graph: onnx.ModelProto) -> DirectSession | BoundSession | CompiledStatistics:
        tensors = tapped_tensors(graph, self.manifest)
        types = element_types(graph)
        check_channels(graph, self.manifest)
        # Half precision is reduced in the graph: on the CPU it is not for speed that anybody runs it.
        if self.provider == CPU and all(types.get(tensor) == onnx.TensorProto.FLOAT for tensor in tensors):
            # Without temporary files the optimised graph cannot be changed.
            with contextlib.suppress(OSError):
                return CompiledStatistics(self._sessions, graph, self.manifest)
        return self._open(instrument(graph, self.manifest))

    def _open(self, graph: onnx.ModelProto, check: Check = lambda _: None) -> DirectSession | BoundSession:
        content = graph.SerializeToString()

        def open_session(capture: bool) -> onnxruntime.InferenceSession:
            session = self._sessions.open(content, capture=capture)
            check(session)
            return session

        if self.provider == CPU:
            return DirectSession(open_session(False), shrink="cpu:0")
        return open_bound(open_session, device_thread(), self._sessions.cuda, tuple(bucket_sizes(self._max_batch)))

    def _common_sizes(self) -> tuple[int, ...]:
        """The batch sizes that both sessions have room for."""
        bound = [session for session in (self._plain, self._instrumented) if isinstance(session, BoundSession)]
        return min((session.sizes for session in bound), key=len, default=CPU_BUCKETS)

    def _noise(self, batch: int) -> NDArray[np.float32]:
        shape = (batch, *self.manifest.inputs[0].shape[1:])
        pixels = np.random.default_rng(batch).integers(0, 256, shape, np.uint8)
        return pixels_to_tensor(pixels, self.manifest.preprocessing)

    def _time_one_image(self) -> float:
        tensor = self._noise(1)
        seconds = []
        for _ in range(TIMED_RUNS):
            started = time.perf_counter()
            self.run(tensor, self.output_names)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    def _close(self, plain: NDArray[np.float32], instrumented: NDArray[np.float32]) -> bool:
        if self.precision == "fp32" and not self.cuda.tf32:
            return np.allclose(plain, instrumented, rtol=PARITY, atol=PARITY)
        return bool(np.abs(plain - instrumented).max() <= COARSE_PARITY * np.abs(plain).max())

    def _warm_up(self, batch: int) -> None:
        tensor = self._noise(batch)
        plain = self.run(tensor, self.output_names)
        instrumented = self.run(tensor, self.output_names + self.statistics_names)
        for output in (*self.manifest.outputs, *self.statistics):
            expected = (batch, *output.shape[1:])
            if instrumented[output.name].shape != expected:
                raise ValueError(
                    f"output {output.name!r} has shape {list(instrumented[output.name].shape)} for {batch} images, "
                    f"its manifest says {list(expected)}"
                )
        for name in self.output_names:
            if not np.isfinite(plain[name]).all():
                raise ValueError(f"output {name!r} holds NaN or infinity for ordinary pixel values")
            if not self._close(plain[name], instrumented[name]):
                difference = float(np.abs(plain[name] - instrumented[name]).max())
                raise ValueError(f"output {name!r} changes by {difference:g} when statistics are computed beside it")
        self.reader.image(instrumented, batch - 1, channels=True)


def bucket_sizes(max_batch: int) -> Iterator[int]:
    """1, 2, 4, 8, …, and `max_batch` last."""
    size = 1
    while size < max_batch:
        yield size
        size *= 2
    yield max_batch
