"""The optimised graph with its activations as outputs, in the layout they have, put into buffers that are used again.

A tensor that ONNX Runtime keeps in its blocked layout is tapped in that layout, before the node that would reorder it:
fetching a ResNet-20's activations so costs 2–4 % of the plain run at batch 8, and 15 % where they are reordered.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.instrument import tapped_tensors
from models.manifest import ModelManifest
from models.opset import IR_VERSION, STANDARD_OPSET
from service.runtime.direct import outgrows, run_options
from service.runtime.provider import CPU
from service.runtime.sessions import Sessions

# Bytes that wait for the next batches of the same sizes; callers beyond that make buffers of their own.
LARGEST_IDLE = 128 << 20

_DOMAIN = "com.microsoft.nchwc"
# A cache line, in floats.
_ALIGNMENT = 16

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Tap:
    """Where an output of the tapped session lies in a buffer."""

    offset: int
    """In floats, for a batch of one; n times that for a batch of n."""
    shape: tuple[int, ...]
    """Of one image; blocked channels are padded to whole blocks."""
    channels: int
    """Without the padding."""
    block: int
    """Channels that lie side by side: 1 for NCHW."""

    @property
    def size(self) -> int:
        """Floats of one image."""
        return prod(self.shape)


class Buffer:
    """Memory for all outputs of one batch, bound to a session once."""

    def __init__(self, session: onnxruntime.InferenceSession, taps: Mapping[str, Tap], batch: int) -> None:
        self.batch = batch
        self._session = session
        self._taps = taps
        size = batch * max(_aligned(tap.offset + tap.size) for tap in taps.values())
        memory = np.empty(size + _ALIGNMENT, np.float32)
        start = -memory.ctypes.data // memory.itemsize % _ALIGNMENT
        self.values: Array = memory[start : start + size]
        self._binding = session.io_binding()
        self._options = run_options()
        self._shrinking = run_options("cpu:0")
        for output, tap in taps.items():
            address = self.values[batch * tap.offset :].ctypes.data
            self._binding.bind_output(output, "cpu", 0, np.float32, (batch, *tap.shape), address)

    def fill(self, images: Array) -> None:
        """Run the batch; its outputs then lie here until the next."""
        (node,) = self._session.get_inputs()
        self._binding.bind_cpu_input(node.name, images)
        self._session.run_with_iobinding(self._binding, self._shrinking if outgrows(images) else self._options)
        self._binding.clear_binding_inputs()

    def output(self, name: str) -> Array:
        """One output of the last batch: a view, overwritten by the next."""
        tap = self._taps[name]
        start = self.batch * tap.offset
        return self.values[start : start + self.batch * tap.size].reshape(self.batch, *tap.shape)


class TappedSession:
    """A session of the optimised graph, whose outputs are those of the model and every tensor that is measured.

    Raises from the constructor what ONNX Runtime raises. The tensors must be float32, their first size the batch.
    """

    def __init__(self, sessions: Sessions, graph: onnx.ModelProto, manifest: ModelManifest) -> None:
        tensors = tapped_tensors(graph, manifest)
        sources: dict[str, Source] = {}

        def rewire(optimised: onnx.ModelProto) -> None:
            sources.update(put_out(optimised, tensors, manifest))

        # Kept, because it owns weights of the session.
        self._sessions = sessions
        self._session = sessions.open(mark(graph, tensors).SerializeToString(), rewire)
        self._names = {tensor: source.name for tensor, source in sources.items()}
        self._taps = self._probe({source.name: source for source in sources.values()}, manifest)
        self._idle: list[Buffer] = []
        self._lock = Lock()

    @property
    def taps(self) -> dict[str, Tap]:
        """Of every tensor that is measured, by its name in the graph."""
        return {tensor: self._taps[output] for tensor, output in self._names.items()}

    def run(self, images: Array) -> Buffer:
        """Run a batch; hand the buffer back when its outputs have been read."""
        buffer = self._take(len(images)) or Buffer(self._session, self._taps, len(images))
        buffer.fill(images)
        return buffer

    def hand_back(self, buffer: Buffer) -> None:
        """Keep a buffer for the next batch of its size; the ones unused for longest make room."""
        with self._lock:
            self._idle.append(buffer)
            while sum(idle.values.nbytes for idle in self._idle) > LARGEST_IDLE:
                self._idle.pop(0)

    def _take(self, batch: int) -> Buffer | None:
        with self._lock:
            for index in reversed(range(len(self._idle))):
                if self._idle[index].batch == batch:
                    return self._idle.pop(index)
        return None

    def _probe(self, sources: Mapping[str, "Source"], manifest: ModelManifest) -> dict[str, Tap]:
        """Run one black image: a graph need not say the sizes of its inner tensors."""
        (images,) = manifest.inputs
        outputs = list(dict.fromkeys([*(spec.name for spec in manifest.outputs), *sources]))
        values = self._session.run(outputs, {images.name: np.zeros((1, *images.shape[1:]), np.float32)})
        taps, offset = {}, 0
        for name, value in zip(outputs, values, strict=True):
            if value.dtype != np.float32 or value.ndim < 2 or len(value) != 1:
                raise ValueError(
                    f"tensor {name!r} is {value.dtype} {list(value.shape)}, expected float32 [1, channels, …]"
                )
            shape = value.shape[1:]
            blocked = name in sources and sources[name].blocked_channels
            taps[name] = Tap(offset, shape, blocked or shape[0], block_size() if blocked else 1)
            offset += _aligned(value.size)
        return taps


class Source(NamedTuple):
    """The tensor of an optimised graph that stands for one of the graph before."""

    name: str
    blocked_channels: int
    """Without padding; 0 in NCHW."""


def mark(graph: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """Return a copy of `graph` in which each tensor has a reader that survives optimisation.

    The tensors themselves must not be outputs yet: what an output needs is not folded into a convolution.
    """
    marked = onnx.ModelProto()
    marked.CopyFrom(graph)
    for tensor in tensors:
        marked.graph.node.append(helper.make_node("GlobalAveragePool", [tensor], [_mark(tensor)]))
        marked.graph.output.append(helper.make_tensor_value_info(_mark(tensor), TensorProto.FLOAT, None))
    return marked


def put_out(optimised: onnx.ModelProto, tensors: Sequence[str], manifest: ModelManifest) -> dict[str, Source]:
    """Replace the readers that `mark` made by outputs of what they read, in the layout it has; change it in place.

    Both ends of a block are put out in one layout, because they are subtracted from each other. It takes time in
    proportion to the graph: there are networks of a thousand layers.
    """
    graph = optimised.graph
    producers = {name: node for node in graph.node for name in node.output}
    sources = {tensor: _source(producers, _mark(tensor)) for tensor in tensors}
    _remove_unread(graph, producers, [_mark(tensor) for tensor in tensors])
    # A convolution that reads NCHW has it reordered first: the pass over whole blocks is the faster one.
    reordered = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "ReorderInput"}
    for site in manifest.sites:
        if sources[site.tensor].name in reordered:
            sources[site.tensor] = Source(reordered[sources[site.tensor].name], site.channels)
    _in_one_layout(graph, producers, sources, manifest)
    marks = {_mark(tensor) for tensor in tensors}
    kept = [value for value in graph.output if value.name not in marks]
    inputs, outputs = ({value.name for value in values} for values in (graph.input, kept))
    for tensor, source in sources.items():
        if source.name in inputs:  # which ONNX Runtime does not let be outputs as they are
            sources[tensor] = Source(f"tap.{source.name}", 0)
            graph.node.append(helper.make_node("Identity", [source.name], [sources[tensor].name]))
    names = {source.name for source in sources.values()} - outputs
    del graph.output[:]
    graph.output.extend(kept)
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in sorted(names))
    return sources


def _mark(tensor: str) -> str:
    return f"mark.{tensor}"


def _source(producers: Mapping[str, onnx.NodeProto], mark: str) -> Source:
    """What the reader reads that puts out `mark`, be it through a node that reorders its output."""
    reader = producers[mark]
    if (reader.domain, reader.op_type) != (_DOMAIN, "ReorderOutput"):
        return Source(reader.input[0], 0)
    channels = next(attribute.i for attribute in reader.attribute if attribute.name == "channels")
    return Source(producers[reader.input[0]].input[0], channels)


def _remove_unread(graph: onnx.GraphProto, producers: Mapping[str, onnx.NodeProto], marks: Iterable[str]) -> None:
    """Remove the readers and what reorders their output, unless the network has the same node and shares it."""
    readers = Counter(name for node in graph.node for name in node.input)
    removed = set()
    for name in marks:
        for _ in range(2 if producers[name].op_type == "ReorderOutput" else 1):
            if readers[name]:
                break
            removed.add(name)
            readers.subtract(producers[name].input)
            name = producers[name].input[0]
    for index in reversed([index for index, node in enumerate(graph.node) if not removed.isdisjoint(node.output)]):
        del graph.node[index]


def _in_one_layout(
    graph: onnx.GraphProto, producers: Mapping[str, onnx.NodeProto], sources: dict[str, Source], manifest: ModelManifest
) -> None:
    """Put out both ends of a block, and of blocks that share one of them, in NCHW if one of them is."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    for block in manifest.blocks:
        for tensor in (block.output, block.shortcut):
            pairs.setdefault(tensor, []).append((block.output, block.shortcut))
    waiting = [pair for of_tensor in pairs.values() for pair in of_tensor]
    made: set[str] = set()
    while waiting:
        pair = waiting.pop()
        blocked = [tensor for tensor in pair if sources[tensor].blocked_channels]
        if len(blocked) == len(pair):
            continue
        for tensor in blocked:
            sources[tensor] = _unblocked(graph, producers, sources[tensor], made)
            waiting += pairs[tensor]


def _unblocked(
    graph: onnx.GraphProto, producers: Mapping[str, onnx.NodeProto], source: Source, made: set[str]
) -> Source:
    producer = producers[source.name]
    if producer.op_type == "ReorderInput":
        return Source(producer.input[0], 0)
    name = f"reordered.{source.name}"
    if name not in made:
        made.add(name)
        node = helper.make_node("ReorderOutput", [source.name], [name], domain=_DOMAIN, channels_last=0)
        node.attribute.append(helper.make_attribute("channels", source.blocked_channels))
        graph.node.append(node)
    return Source(name, 0)


@functools.cache
def block_size() -> int:
    """Channels side by side in the blocked layout of this processor: 8, or 16 with AVX-512.

    The shape of a blocked tensor does not tell, so a tensor of 16 channels and 2 positions is reordered.
    """
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=_DOMAIN)
    opsets = [helper.make_opsetid("", STANDARD_OPSET), helper.make_opsetid(_DOMAIN, 1)]
    model = helper.make_model(helper.make_graph([node], "probe", [x], [y]), opset_imports=opsets, ir_version=IR_VERSION)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[CPU])
    values = session.run(None, {"x": np.arange(32, dtype=np.float32).reshape(1, 16, 1, 2)})[0]
    # The second position of the first channel comes after one block of channels.
    block: int = values.ravel().tolist().index(1.0)
    return block


def _aligned(floats: int) -> int:
    return -(-floats // _ALIGNMENT) * _ALIGNMENT
