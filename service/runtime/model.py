"""A model that is ready to answer: verified, loaded, warmed up."""

import contextlib
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from service.errors import ModelFaultError
from service.runtime.compiled import CompiledStatistics
from service.runtime.provider import CPU, CUDA
from service.runtime.reference import Reference
from service.runtime.sessions import Sessions

Tensors = Mapping[str, NDArray[np.float32]]

DATATYPES = {"tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(uint8)": "UINT8"}
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

    def __init__(self, bundle: Bundle, provider: str, threads: int, max_batch: int = 2) -> None:
        started = time.perf_counter()
        self.manifest: ModelManifest = bundle.manifest
        self.reader = StatisticsReader(bundle.manifest)
        self.reference = Reference.of(bundle)
        self.statistics = tuple(
            TensorSpec(name=name, datatype="FP32", shape=(-1, width))
            for name, width in output_widths(bundle.manifest).items()
        )
        """The outputs that only the instrumented session has."""
        _check_manifest(bundle.manifest)
        graph = _parse(bundle.graph)
        _refuse_external_data(graph)
        graph = choose_overload(graph, OVERLOADS[provider])
        self._sessions = Sessions(provider, threads)
        self._plain = self._sessions.open(graph.SerializeToString())
        _check_signature(self._plain, self.manifest.inputs, self.manifest.outputs)
        weights = self._sessions.weight_bytes
        self._instrumented = self._open_instrumented(graph)
        self.memory = Memory(weights, self._sessions.weight_bytes - weights)
        self.buckets = CPU_BUCKETS if provider == CPU else tuple(buckets(max_batch))
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
    def output_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.manifest.outputs)

    @property
    def statistics_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.statistics)

    def run(self, tensor: NDArray[np.float32], outputs: Sequence[str]) -> Tensors:
        """Run a batch and return the outputs asked for; only when a statistic is among them is it computed at all.

        Raises `ModelFaultError` when ONNX Runtime fails.
        """
        plain = set(outputs) <= set(self.output_names)
        session = self._plain if plain else self._instrumented
        try:
            values = session.run(list(outputs), {self.manifest.inputs[0].name: tensor})
        # ONNX Runtime's exceptions have no base of their own.
        except Exception as error:
            raise ModelFaultError(
                f"model {self.manifest.name!r} failed while it ran: {error}; try a smaller batch"
            ) from error
        return dict(zip(outputs, values, strict=True))

    def _open_instrumented(self, graph: onnx.ModelProto) -> "onnxruntime.InferenceSession | CompiledStatistics":
        tensors = tapped_tensors(graph, self.manifest)
        types = element_types(graph)
        _check_channels(graph, self.manifest)
        # Half precision is reduced in the graph: on the CPU it is not for speed that anybody runs it.
        if self.provider == CPU and all(types.get(tensor) == onnx.TensorProto.FLOAT for tensor in tensors):
            # Without temporary files the optimised graph cannot be changed.
            with contextlib.suppress(OSError):
                return CompiledStatistics(self._sessions, graph, self.manifest)
        return self._sessions.open(instrument(graph, self.manifest).SerializeToString())

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
            if not np.allclose(plain[name], instrumented[name], rtol=PARITY, atol=PARITY):
                difference = float(np.abs(plain[name] - instrumented[name]).max())
                raise ValueError(f"output {name!r} changes by {difference:g} when statistics are computed beside it")
        self.reader.image(instrumented, batch - 1, channels=True)


def buckets(max_batch: int) -> Iterator[int]:
    """1, 2, 4, 8, …, and `max_batch` last."""
    size = 1
    while size < max_batch:
        yield size
        size *= 2
    yield max_batch


def _check_manifest(manifest: ModelManifest) -> None:
    """Raise ValueError where parts of the manifest contradict each other, or ask for what this service cannot do."""
    (images,), (logits,) = manifest.inputs, manifest.outputs
    for spec in (images, logits):
        if spec.datatype != "FP32":
            raise ValueError(f"tensor {spec.name!r} has datatype {spec.datatype}, this service runs FP32")
    pixels = manifest.preprocessing
    expected = (-1, pixels.channels, pixels.height, pixels.width)
    if images.shape != expected:
        raise ValueError(f"input {images.name!r} has shape {images.shape}, its pre-processing makes {expected}")
    if logits.shape != (-1, len(manifest.class_names)):
        raise ValueError(
            f"output {logits.name!r} has shape {logits.shape}, and there are {len(manifest.class_names)} class names"
        )


def _parse(graph: bytes) -> onnx.ModelProto:
    try:
        return onnx.load_from_string(graph)
    except Exception as error:  # protobuf's DecodeError has no public type
        raise ValueError(f"the graph is not an ONNX model: {error}") from error


def _check_channels(graph: onnx.ModelProto, manifest: ModelManifest) -> None:
    """Raise ValueError where a site has other channels than its tensor: its neighbours' columns would be taken for its.

    The warm-up sees only the sum over all sites.
    """
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    sizes = {
        tensor.name: [size.dim_value for size in tensor.type.tensor_type.shape.dim]
        for tensor in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    for site in manifest.sites:
        given = sizes.get(site.tensor, [])
        if given[1:2] != [site.channels]:
            raise ValueError(
                f"site {site.name!r} has {site.channels} channels in the manifest, "
                f"its tensor {site.tensor!r} has the sizes {given or 'that cannot be inferred'} (0 is not fixed)"
            )


def _check_signature(
    session: onnxruntime.InferenceSession, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Raise ValueError where the graph's inputs or outputs are not what the manifest says."""
    for role, nodes, specs in (("inputs", session.get_inputs(), inputs), ("outputs", session.get_outputs(), outputs)):
        graph = [(node.name, DATATYPES.get(node.type, node.type), tuple(_sizes(node.shape))) for node in nodes]
        manifest = [(spec.name, spec.datatype, spec.shape) for spec in specs]
        if graph != manifest:
            raise ValueError(f"the graph's {role} are {graph}, its manifest says {manifest}")


def _sizes(shape: Iterable[int | str | None]) -> Iterator[int]:
    return (size if isinstance(size, int) else -1 for size in shape)


def _refuse_external_data(model: onnx.ModelProto) -> None:
    """Raise ValueError if a tensor of the graph lies in another file, whose bytes nobody has verified."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for tensor in (*model.graph.initializer, *_tensors(nodes)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(f"the graph keeps {tensor.name!r} in another file: export it with its weights inside")


def _tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.initializer
                yield from _tensors(graph.node)
