"""A graph to time: opened as the service opens it, run on an input that lies where its provider computes."""

import time
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from models.overloads import choose_overload
from service.runtime.model import OVERLOADS
from service.runtime.provider import CPU, CUDA
from service.runtime.sessions import Sessions

DEVICES = {CPU: "cpu", CUDA: "cuda"}


class ServedGraph:
    """A graph with one input and one output, in a session of one thread."""

    def __init__(self, model: onnx.ModelProto, provider: str) -> None:
        # Kept, because it owns weights of the session.
        self._sessions = Sessions(provider, threads=1)
        self._session = self._sessions.open(choose_overload(model, OVERLOADS[provider]).SerializeToString())

    def bind(self, x: NDArray[np.float32]) -> "BoundRun":
        """Lay `x` on the provider's device, once: a run then copies nothing, neither in nor out."""
        device = DEVICES[self._sessions.provider]
        (source,), (target,) = self._session.get_inputs(), self._session.get_outputs()
        binding = self._session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy(x, device, 0)
        binding.bind_ortvalue_input(source.name, value)
        binding.bind_output(target.name, device)
        return BoundRun(self._session, binding, value)


class BoundRun:
    """One session and one input, to run again and again."""

    def __init__(self, session: onnxruntime.InferenceSession, binding: Any, x: Any) -> None:
        self._session = session
        self._binding = binding
        # Kept, because the binding only borrows the memory of an array on the CPU.
        self._x = x

    def seconds(self) -> float:
        """Run once, and wait until the output is there."""
        started = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return time.perf_counter() - started

    def steady_seconds(self, together: float) -> float:
        """Seconds of a run when runs follow each other for `together` seconds, the first of them not counted.

        A single short run would pay for the caches that the arm before it has filled: a Relu up to four times its own.
        """
        self.seconds()
        runs, total = 0, 0.0
        while total < together:
            total += self.seconds()
            runs += 1
        return total / runs

    def output(self) -> NDArray[np.float32]:
        """Run once and copy the output to the host."""
        self.seconds()
        (output,) = self._binding.copy_outputs_to_cpu()
        return np.asarray(output)
