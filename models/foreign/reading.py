"""An ONNX file of any origin → its model, whole: weights inside, functions of other packages inlined."""

from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import TensorProto, inliner

from models.opset import DOMAIN

STANDARD = ("", "ai.onnx")
KINDS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8}
"""Of an input: what pixel values can be cast to."""


class ImageInput(NamedTuple):
    """The input that takes the images; a size is 0 where the graph leaves it open."""

    name: str
    kind: int
    batch: int
    channels: int
    height: int
    width: int


def read_graph(path: Path) -> onnx.ModelProto:
    """Read and check a file; weights in files beside it are read in.

    Raises `ValueError` when it cannot be read, is no valid model, or has operators that are neither standard ones nor
    of this project.
    """
    try:
        model = onnx.load(path)
        # Where the file lies is of no matter any more.
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise ValueError(
            f"{path}: {error.filename or error} does not exist: give an ONNX file and keep its weights beside it"
        ) from error
    # Of protobuf, of ONNX's checker, of the system: they have no common base.
    except Exception as error:
        raise ValueError(f"{path} is not a valid ONNX model ({_first_line(error)}): export it again") from error
    foreign = [(f.domain, f.name) for f in model.functions if f.domain != DOMAIN]
    if foreign:
        model = inliner.inline_selected_functions(model, foreign)
    strange = sorted(
        {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in (*STANDARD, DOMAIN)}
    )
    if strange:
        raise ValueError(
            f"the graph has operators that are not standard ONNX: {', '.join(strange[:5])}; "
            "export it without fusing or quantising, for the standard operators alone"
        )
    return model


def image_input(model: onnx.ModelProto) -> ImageInput:
    """The one input of a graph, which must be images N×C×H×W; raises `ValueError` for any other."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [tensor for tensor in model.graph.input if tensor.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(repr(tensor.name) for tensor in inputs) or "none"
        raise ValueError(f"the graph has {len(inputs)} inputs ({names}): a classifier of images has one")
    (images,) = inputs
    kind = images.type.tensor_type
    sizes = [size.dim_value for size in kind.shape.dim]
    shown = "×".join(str(size.dim_value or size.dim_param or "?") for size in kind.shape.dim)
    if len(sizes) != 4:
        raise ValueError(f"input {images.name!r} has shape {shown or 'unknown'}: images N×C×H×W were expected")
    if sizes[1] not in (0, 1, 3):
        if sizes[3] in (1, 3):
            raise ValueError(
                f"input {images.name!r} has shape {shown}, images N×H×W×C: export it with channels first, N×C×H×W"
            )
        raise ValueError(f"input {images.name!r} has {sizes[1]} channels ({shown}): images have 1 or 3")
    if kind.elem_type not in KINDS:
        raise ValueError(
            f"input {images.name!r} is of type {TensorProto.DataType.Name(kind.elem_type)}: "
            "FLOAT, FLOAT16 and UINT8 can be served"
        )
    batch, channels, height, width = sizes
    return ImageInput(images.name, kind.elem_type, batch, channels, height, width)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
