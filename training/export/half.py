"""A graph in single precision → the same in half precision, its inputs and outputs still float32, and how close it is.

Checked on the CPU, which rounds weights and activations less often than a GPU. So the bound leaves room: shipped models
were off by 0.1 % of their largest logit there, and by 0.2 % where every operator's result was rounded.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from models.manifest import HalfPrecision, Metrics
from models.overloads import choose_overload
from models.preprocessing import pixels_to_tensor
from training.data.images import DataSet
from training.export.graph import INPUT, OUTPUT, ExportParityError, open_session
from training.loop.evaluation import Evaluation, evaluate

# |logit − logit in single precision|, relative to the largest |logit|.
TOLERANCE = 0.02
# Share of the held-out images by which accuracy may fall.
ACCURACY_TOLERANCE = 0.005
BATCH = 64
# Of the held-out images, for the sizes of all tensors.
SAMPLE = 16
LARGEST = float(np.finfo(np.float16).max) / 2

Array = NDArray[np.float32]


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with weights and activations in float16, between casts; the bodies of activations take either type."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # The converter puts its casts last.
    converted = OnnxModel(convert_float_to_float16(copy, keep_io_types=True))
    converted.topological_sort()
    half: onnx.ModelProto = converted.model
    onnx.checker.check_model(half, full_check=True)
    return half


def check_half(model: onnx.ModelProto, half: onnx.ModelProto, data: DataSet) -> HalfPrecision:
    """What the held-out images say of `half`, as a GPU would run it, beside `model`.

    Raises `ExportParityError` when its logits are farther off than 2 % of the largest one, when more than 0.5 % fewer
    images are classified correctly, or when a tensor of `model` is beyond half of the largest number of float16.
    """
    largest = _largest_value(model, data)
    if not largest <= LARGEST:
        raise ExportParityError(
            f"values of the graph reach {largest:.3g}, and half precision ends at 65504: publish it in single precision"
        )
    before_half, after_half = (_run(graph, data) for graph in (model, choose_overload(half, "cuda")))
    differences = {name: _difference(after_half[name], values) for name, values in before_half.items()}
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ExportParityError(
                f"{name} in half precision differ by {difference:.2%} of the largest one; at most {TOLERANCE:.0%} is "
                "allowed: publish it in single precision"
            )
    before, after = _evaluate(before_half[OUTPUT], data), _evaluate(after_half[OUTPUT], data)
    if after.accuracy < before.accuracy - ACCURACY_TOLERANCE:
        raise ExportParityError(
            f"accuracy in half precision is {after.accuracy:.2%} instead of {before.accuracy:.2%}: "
            "publish it in single precision"
        )
    metrics = Metrics(
        images=after.images, accuracy=after.accuracy, loss=after.loss, data=f"{data.name}, held out, half precision"
    )
    return HalfPrecision(tolerance=TOLERANCE, difference=differences[OUTPUT], metrics=metrics)


def _evaluate(logits: Array, data: DataSet) -> Evaluation:
    return evaluate(lambda _: logits, data.held_out, batch_size=len(data.held_out))


def _difference(actual: Array, expected: Array) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def _run(model: onnx.ModelProto, data: DataSet) -> dict[str, Array]:
    """All outputs, by name."""
    session = open_session(model)
    names = [output.name for output in model.graph.output]
    batches = (data.held_out.pixels[start : start + BATCH] for start in range(0, len(data.held_out), BATCH))
    runs = [session.run(names, {INPUT: pixels_to_tensor(pixels, data.preprocessing)}) for pixels in batches]
    return {name: np.concatenate(values) for name, values in zip(names, zip(*runs, strict=True), strict=True)}


def _largest_value(model: onnx.ModelProto, data: DataSet) -> float:
    """The largest |x| of all tensors between the nodes, for some held-out images."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    declared = {output.name for output in opened.graph.output}
    inferred = onnx.shape_inference.infer_shapes(opened).graph.value_info
    opened.graph.output.extend(
        helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None)
        for value in inferred
        if value.name not in declared and value.type.tensor_type.elem_type == TensorProto.FLOAT
    )
    tensor = pixels_to_tensor(data.held_out.pixels[:SAMPLE], data.preprocessing)
    return max(float(np.abs(values).max()) for values in open_session(opened).run(None, {INPUT: tensor}))
