"""Opens ONNX Runtime sessions: the options of each provider, and weights that two sessions hold together.

Telling two CPU sessions to use the same initializers by name saves nothing: ONNX Runtime re-orders convolution weights
into its blocked layout while it optimises, and each session keeps its own copy of the result. So here the graph is
optimised first, the weights of the *optimised* graph are looked up by their content, and the session is opened on that
graph with further optimisation off. Measured on a ResNet-50 (102 MB of weights): the second session costs 11 MB of
resident memory, against 109 MB when both optimise for themselves, and no less when they share by name; on a ResNet-20
(1.1 MB) 1.8 MB against 2.9 MB. Outputs are bit-identical and the time of a run is the same. The price is one more
optimisation at load, 0.5 s for the ResNet-50.
"""

import hashlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
from onnx import numpy_helper

from service.runtime.cuda import CudaOptions
from service.runtime.device_thread import device_thread
from service.runtime.provider import CPU, CUDA

logger = logging.getLogger("reslens")

# Smaller tensors (shapes, biases of a few channels) are not worth an entry.
SMALLEST_SHARED = 1024

Rewire = Callable[[onnx.ModelProto], None]

_ERROR = 3
_NO_OPTIONS = CudaOptions()


class Sessions:
    """Opens sessions of one model on one provider. Keep it as long as they live: it owns the weights they share.

    On CUDA each session has its own copy of the weights.
    """

    def __init__(self, provider: str, threads: int, cuda: CudaOptions = _NO_OPTIONS) -> None:
        self.provider = provider
        self.threads = threads
        self.cuda = cuda
        self.weight_bytes = 0
        """Bytes of all the different weights held so far, on the CPU."""
        self._weights: dict[bytes, onnxruntime.OrtValue] = {}

    def open(self, graph: bytes, rewire: Rewire | None = None, capture: bool = False) -> onnxruntime.InferenceSession:
        """Open a session; on CUDA `capture` makes it one whose runs are captured as CUDA graphs.

        Raises RuntimeError when another provider than the one asked for would run it, and what ONNX Runtime raises,
        also when runs are to be captured and a node does not run on CUDA.

        On the CPU `rewire` may change the optimised graph in place; that takes a temporary file, so it raises OSError
        where none can be written.
        """
        try:
            session = self._open_from_file(graph, rewire, capture)
        except OSError as error:
            if rewire is not None:
                raise
            # A read-only container: each session keeps weights of its own, but it serves.
            logger.warning("models take more memory, for no temporary file can be written (set TMPDIR): %s", error)
            session = self._session(graph, self._options(), capture)
            self.weight_bytes += len(graph)
        if self.provider not in session.get_providers():
            raise RuntimeError(f"{self.provider} was asked for, and ONNX Runtime offers {session.get_providers()}")
        return session

    def _open_from_file(self, graph: bytes, rewire: Rewire | None, capture: bool) -> onnxruntime.InferenceSession:
        """Open it from a file, because a session opened from bytes keeps them as long as it lives."""
        with tempfile.TemporaryDirectory(prefix="reslens-") as directory:
            file = Path(directory) / "model.onnx"
            file.write_bytes(graph)
            options = self._optimise(file, rewire) if self.provider == CPU else self._options()
            return self._session(file, options, capture)

    def _optimise(self, file: Path, rewire: Rewire | None) -> onnxruntime.SessionOptions:
        """Replace the graph in `file` by its optimised form, and return options that lend it the shared weights."""
        optimising = self._options()
        optimised = file.with_name("optimised.onnx")
        optimising.optimized_model_filepath = str(optimised)
        self._session(file, optimising)
        optimised.replace(file)

        model = onnx.load(file)
        if rewire is not None:
            rewire(model)
            onnx.save(model, file)

        options = self._options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        for tensor in model.graph.initializer:
            weights = numpy_helper.to_array(tensor)
            if weights.nbytes < SMALLEST_SHARED:
                continue
            key = hashlib.sha256(f"{weights.dtype}{weights.shape}".encode() + weights.tobytes()).digest()
            if key not in self._weights:
                # A copy: the value must own its memory after the graph is gone.
                self._weights[key] = onnxruntime.OrtValue.ortvalue_from_numpy(weights.copy())
                self.weight_bytes += weights.nbytes
            options.add_initializer(tensor.name, self._weights[key])
        return options

    def _session(
        self, graph: Path | bytes, options: onnxruntime.SessionOptions, capture: bool = False
    ) -> onnxruntime.InferenceSession:
        if self.provider == CPU:
            return onnxruntime.InferenceSession(graph, options, providers=[CPU], enable_fallback=0)
        providers = [
            (CUDA, self.cuda.provider_options(capture)),
            (CPU, {}),  # for the few nodes about shapes that belong there
        ]
        # Weights are allocated on the device, which must not happen while a graph is captured.
        with device_thread().quiet:
            return onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERROR
        options.intra_op_num_threads = self.threads
        # Threads that spin while they wait take the CPUs from the callers beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options
