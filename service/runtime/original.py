"""A graph as it was given, before anything was changed in it: what the published form is compared with."""

import numpy as np
import onnx
from numpy.typing import NDArray

from models.foreign.reading import image_input
from service.runtime.provider import CPU
from service.runtime.sessions import Sessions


class OriginalGraph:
    """Runs a graph in batches of its own size. Raises `ValueError` when ONNX Runtime cannot."""

    def __init__(self, model: onnx.ModelProto, output: str | None, threads: int) -> None:
        self._input = image_input(model)
        self.has_halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
        """Whether its weights are float16."""
        self._output = output or model.graph.output[0].name
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        if self._output not in {tensor.name for tensor in tapped.graph.output}:
            tapped.graph.output.append(onnx.ValueInfoProto(name=self._output))
        # It owns the weights.
        self._sessions = Sessions(CPU, threads)
        try:
            self._session = self._sessions.open(tapped.SerializeToString())
        # ONNX Runtime's exceptions have no base of their own.
        except Exception as error:
            raise ValueError(f"ONNX Runtime cannot run the graph as it is: {error}") from error

    def at_least(self, images: int) -> int:
        """The smallest number of images, at least so many, that its batches divide."""
        size = self._input.batch or 1
        return -(-images // size) * size

    def run(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """Its output for float32 images, in float32."""
        size = self._input.batch or len(tensor)
        converted = tensor.astype(onnx.helper.tensor_dtype_to_np_dtype(self._input.kind))
        try:
            parts = [
                self._session.run([self._output], {self._input.name: converted[start : start + size]})[0]
                for start in range(0, len(tensor), size)
            ]
        except Exception as error:
            raise ValueError(f"ONNX Runtime cannot run the graph as it is: {error}") from error
        return np.concatenate(parts).astype(np.float32)
