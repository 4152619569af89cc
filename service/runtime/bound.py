"""A session on a GPU: its inputs and outputs stay in fixed places on the device, a set of them for each batch size.

A batch is filled up with black images to the next size, and what comes out for them is cut off again. So every shape
that is ever run was run at load: nothing is searched or allocated later, and a run can be one captured CUDA graph,
which needs the same shapes and places each time.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.runtime.cuda import CudaOptions
from service.runtime.device_thread import DeviceThread
from service.runtime.direct import run_options
from service.runtime.failures import is_out_of_memory

logger = logging.getLogger("reslens")

Array = NDArray[np.float32]

# Of a graph that is not captured, in ONNX Runtime's words.
NO_GRAPH = -1
# A captured graph runs the same kernels; the bound leaves room for algorithms that do not always add in one order.
CAPTURE_TOLERANCE = 1e-4


class CaptureError(RuntimeError):
    """A captured graph does not compute what the session computes."""


class Slot:
    """The input and the outputs of one batch size, on the device."""

    def __init__(self, session: onnxruntime.InferenceSession, place: tuple[str, int], batch: int) -> None:
        self.batch = batch
        self._session = session
        (node,) = session.get_inputs()
        self.image_shape = tuple(_fixed(node))
        self._staged = np.zeros((batch, *self.image_shape), np.float32)
        self._input = _allocate(self._staged.shape, place)
        self._outputs = {output.name: _allocate((batch, *_fixed(output)), place) for output in session.get_outputs()}
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(node.name, self._input)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    @property
    def names(self) -> list[str]:
        """Of all outputs."""
        return list(self._outputs)

    def run(self, outputs: Sequence[str], images: Array, options: onnxruntime.RunOptions) -> list[Array]:
        """Copy at most `batch` images in, run, and copy the outputs named out."""
        self._fill(images)
        self._session.run_with_iobinding(self._binding, options)
        self._binding.synchronize_outputs()
        # From a GPU `numpy` copies; on the CPU it is a view of what the next run overwrites.
        return [np.array(self._outputs[name].numpy()[: len(images)]) for name in outputs]

    def _fill(self, images: Array) -> None:
        if len(images) < self.batch:
            self._staged[: len(images)] = images
            self._staged[len(images) :] = 0
            images = self._staged
        self._input.update_inplace(np.ascontiguousarray(images, np.float32))


class BoundSession:
    """Answers like `DirectSession`; a batch beyond the largest size is run in parts. Safe to call from several threads.

    Raises from the constructor what ONNX Runtime raises, and `CaptureError`.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        thread: DeviceThread,
        place: tuple[str, int],
        sizes: Iterable[int],
        capture: bool = False,
        shrink: str | None = None,
    ) -> None:
        """`place` is the kind and number of a device; `sizes` are tried in order until one has no room."""
        self._session = session
        self._thread = thread
        self._place = place
        self.captured = capture
        self._shrink = shrink
        self._slots: dict[int, Slot] = {}
        self._options: dict[int, onnxruntime.RunOptions] = {}
        for size in sizes:
            if not self._thread.call(functools.partial(self._add, size)):
                break

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes that were run, smallest first."""
        return tuple(self._slots)

    def run(self, outputs: Sequence[str], images: Array) -> list[Array]:
        """The outputs named, for N images; raises what ONNX Runtime raises."""
        return self._thread.call(lambda: self._run(outputs, images))

    def _run(self, outputs: Sequence[str], images: Array) -> list[Array]:
        largest = self.sizes[-1]
        parts = [
            self._run_part(outputs, images[start : start + largest]) for start in range(0, max(len(images), 1), largest)
        ]
        return parts[0] if len(parts) == 1 else [np.concatenate(values) for values in zip(*parts, strict=True)]

    def _run_part(self, outputs: Sequence[str], images: Array) -> list[Array]:
        size = next(size for size in self._slots if size >= len(images))
        return self._slots[size].run(outputs, images, self._options[size])

    def _add(self, size: int) -> bool:
        """Allocate what a batch of this size needs, run it and capture it; whether there was room."""
        try:
            slot = Slot(self._session, self._place, size)
            if self.captured:
                with self._thread.quiet:
                    options = self._capture(slot)
            else:
                options = run_options(self._shrink)
                slot.run(slot.names, _noise(size, slot.image_shape, seed=0), options)
        except Exception as error:
            if not self._slots or not is_out_of_memory(error):
                raise
            logger.warning("there is no memory for %d images at once, only for %d: %s", size, self.sizes[-1], error)
            return False
        self._slots[size], self._options[size] = slot, options
        return True

    def _capture(self, slot: Slot) -> onnxruntime.RunOptions:
        """Capture the run of a slot; see that it computes what is computed without, for other images too."""
        captured, plain = run_options(graph=slot.batch), run_options(graph=NO_GRAPH)
        samples = [_noise(slot.batch, slot.image_shape, seed) for seed in range(2)]
        expected = [slot.run(slot.names, sample, plain) for sample in samples]
        for sample, values in zip(samples, expected, strict=True):
            for name, actual, value in zip(slot.names, slot.run(slot.names, sample, captured), values, strict=True):
                if not np.allclose(actual, value, CAPTURE_TOLERANCE, CAPTURE_TOLERANCE, equal_nan=True):
                    raise CaptureError(f"output {name!r} of {slot.batch} images is another one in a CUDA graph")
        return captured


def open_bound(
    open_session: Callable[[bool], onnxruntime.InferenceSession],
    thread: DeviceThread,
    options: CudaOptions,
    sizes: Sequence[int],
) -> BoundSession:
    """A session with its runs captured as CUDA graphs, or without where they cannot be and need not be.

    `open_session(capture)` opens one. Raises what ONNX Runtime raises, and `CaptureError`.
    """
    place = ("cuda", options.device)
    reason = None
    if options.captures:
        try:
            return BoundSession(open_session(True), thread, place, sizes, capture=True)
        except Exception as error:
            if options.graphs == "on" or is_out_of_memory(error):
                raise
            reason = error
    shrink = f"gpu:{options.device}" if options.arena_shrink else None
    opened = BoundSession(open_session(False), thread, place, sizes, shrink=shrink)
    if reason is not None:
        logger.warning("a model runs without CUDA graphs: %s", reason)
    return opened


def _noise(batch: int, image_shape: Sequence[int], seed: int) -> Array:
    """Pixel values of no image."""
    return np.random.default_rng(seed).integers(0, 256, (batch, *image_shape)).astype(np.float32)


def _allocate(shape: Sequence[int], place: tuple[str, int]) -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), np.float32, *place)


def _fixed(tensor: onnxruntime.NodeArg) -> list[int]:
    """The sizes of one image's input or output; raises ValueError where the graph does not say them."""
    if not all(isinstance(size, int) for size in tensor.shape[1:]):
        raise ValueError(f"tensor {tensor.name!r} has the sizes {tensor.shape}: all but the batch must be fixed")
    return list(tensor.shape[1:])
