"""A classifier's graph → the same classifier in the form that is published: float images in, any batch, logits out."""

from collections.abc import Callable, MutableSequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper, version_converter

from models.foreign.reading import ImageInput, image_input
from models.manifest import Preprocessing, TensorSpec
from models.opset import IR_VERSION, STANDARD_OPSET

OLDEST_OPSET = 18
"""The first in which all operators take what the statistics give them."""
LOGITS = "logits"
BATCH = "batch"
SQUASHING = {"Sigmoid", "HardSigmoid"}


@dataclass(frozen=True)
class Conformed:
    """The graph as it will be published, and its signature."""

    model: onnx.ModelProto
    images: TensorSpec
    logits: TensorSpec
    before_softmax: bool
    """Whether the graph ended in a softmax, which was taken off."""


def conform(given: onnx.ModelProto, preprocessing: Preprocessing, output: str | None = None) -> Conformed:
    """Return a copy of the graph that takes float32 images of the pre-processing's size and puts out logits N×K.

    A final softmax is taken off, the batch is made dynamic, half-precision or uint8 inputs and outputs become float32
    by casts, other outputs and what only they need are dropped, and an old opset is converted to the present one.
    Raises `ValueError` for what cannot be brought into this form.
    """
    model = onnx.ModelProto()
    model.CopyFrom(given)
    images = image_input(model)
    _fits(images, preprocessing)
    before_softmax = _end_in_logits(model, output)
    _prune(model)
    _take_images(model, images, preprocessing)
    model = _with_present_opset(model)
    classes = _flatten_output(model)
    onnx.checker.check_model(model, full_check=True)
    shape = (-1, preprocessing.channels, preprocessing.height, preprocessing.width)
    return Conformed(
        model,
        TensorSpec(name=model.graph.input[0].name, datatype="FP32", shape=shape),
        TensorSpec(name=model.graph.output[0].name, datatype="FP32", shape=(-1, classes)),
        before_softmax,
    )


def strip(model: onnx.ModelProto) -> None:
    """Drop what exporters leave behind: stack traces and paths of the machine that exported."""
    del model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for tensor in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del tensor.metadata_props[:]
        tensor.doc_string = ""


def _fits(images: ImageInput, preprocessing: Preprocessing) -> None:
    for what, graph, given in (
        ("channels", images.channels, preprocessing.channels),
        ("height", images.height, preprocessing.height),
        ("width", images.width, preprocessing.width),
    ):
        if graph not in (0, given):
            raise ValueError(f"input {images.name!r} has {what} {graph}, the pre-processing makes {given}: use {graph}")
    if images.kind == TensorProto.UINT8 and preprocessing.normalisation is not None:
        raise ValueError(
            f"input {images.name!r} takes uint8 pixels, which cannot be normalised: leave out mean and std"
        )


def _end_in_logits(model: onnx.ModelProto, asked: str | None) -> bool:
    """Leave one output, and of that what goes into its softmax; returns whether there was one."""
    graph = model.graph
    names = [tensor.name for tensor in graph.output]
    if asked is None and len(names) != 1:
        raise ValueError(
            f"the graph has {len(names)} outputs ({', '.join(names)}): say which are the logits with --output"
        )
    producer = {name: node for node in graph.node for name in node.output}
    name = asked or names[0]
    if name not in names and name not in producer:
        raise ValueError(f"the graph has no output {name!r}; choose from {', '.join(names)}")
    node = producer.get(name)
    while node is not None and node.op_type in ("Identity", "Cast"):
        node = producer.get(node.input[0])
    if node is not None and node.op_type in SQUASHING:
        raise ValueError(
            f"output {name!r} comes from a {node.op_type}: its classes do not exclude each other, and only classifiers "
            "that choose one class are served; name the tensor of the logits with --output if there is one"
        )
    softmax = node if node is not None and node.op_type == "Softmax" and _over_classes(node, model) else None
    logits = name if softmax is None else softmax.input[0]
    if softmax is not None and LOGITS not in producer and LOGITS not in {tensor.name for tensor in graph.input}:
        graph.node.append(helper.make_node("Identity", [logits], [LOGITS], name=LOGITS))
        logits = LOGITS
    known = {tensor.name: tensor for tensor in (*graph.output, *graph.value_info)}
    kind = known[name].type.tensor_type.elem_type if name in known else TensorProto.FLOAT
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(logits, kind, None))
    return softmax is not None


def _over_classes(softmax: NodeProto, model: onnx.ModelProto) -> bool:
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    axis = next((a.i for a in softmax.attribute if a.name == "axis"), 1 if opset < 13 else -1)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    ranks = {t.name: len(t.type.tensor_type.shape.dim) for t in (*inferred.value_info, *inferred.output)}
    return axis == 1 or (axis == -1 and ranks.get(softmax.input[0], 2) == 2)


def _prune(model: onnx.ModelProto) -> None:
    """Drop nodes that the output does not need, and inputs that are weights."""
    graph = model.graph
    needed = {tensor.name for tensor in graph.output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            needed.update(name for attribute in node.attribute for name in _outside(attribute))
    stored = {tensor.name for tensor in graph.initializer}
    _keep(graph.node, lambda node: not needed.isdisjoint(node.output))
    _keep(graph.initializer, lambda tensor: tensor.name in needed)
    _keep(graph.input, lambda tensor: tensor.name not in stored)


def _keep(messages: MutableSequence[Any], wanted: Callable[[Any], bool]) -> None:
    for index in reversed(range(len(messages))):
        if not wanted(messages[index]):
            del messages[index]


def _outside(attribute: onnx.AttributeProto) -> set[str]:
    """Every name that the subgraphs of an attribute mention."""
    names: set[str] = set()
    for graph in (attribute.g, *attribute.graphs):
        names.update(tensor.name for tensor in graph.output)
        for node in graph.node:
            names.update(node.input)
            names.update(name for inner in node.attribute for name in _outside(inner))
    return names


def _take_images(model: onnx.ModelProto, images: ImageInput, preprocessing: Preprocessing) -> None:
    """Float32 images of this size, any number of them."""
    graph = model.graph
    if images.kind != TensorProto.FLOAT:
        _rename(graph, images.name, inner := f"{images.name}.cast")
        graph.node.insert(0, helper.make_node("Cast", [images.name], [inner], name=inner, to=images.kind))
    shape = [BATCH, preprocessing.channels, preprocessing.height, preprocessing.width]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(images.name, TensorProto.FLOAT, shape))
    del graph.value_info[:]
    if images.batch:
        _free_reshapes(graph, images.batch)


def _free_reshapes(graph: onnx.GraphProto, batch: int) -> None:
    """Where a constant shape starts with the batch size, take the size from the tensor instead."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    weights |= {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    for index, node in enumerate(graph.node):
        allows_zero = any(a.name == "allowzero" and a.i for a in node.attribute)
        if node.op_type != "Reshape" or node.input[1] not in weights or allows_zero:
            continue
        sizes = numpy_helper.to_array(weights[node.input[1]]).copy()
        if sizes.size > 1 and sizes[0] == batch:
            sizes[0] = 0
            name = f"{node.output[0]}.shape{index}"
            graph.initializer.append(numpy_helper.from_array(sizes, name))
            node.input[1] = name


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def _with_present_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    model.ir_version = max(model.ir_version, IR_VERSION)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= OLDEST_OPSET:
        return model
    try:
        converted: onnx.ModelProto = version_converter.convert_version(model, STANDARD_OPSET)
    except Exception as error:
        raise ValueError(
            f"the graph is of opset {opset} and cannot be converted to {STANDARD_OPSET} ({error}): "
            f"export it again with opset {OLDEST_OPSET} or later"
        ) from error
    return converted


def _flatten_output(model: onnx.ModelProto) -> int:
    """Make the output float32 N×K, and return K."""
    graph = model.graph
    (output,) = graph.output
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output[0].type.tensor_type
    sizes = [size.dim_value for size in inferred.shape.dim]
    if inferred.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        kind = TensorProto.DataType.Name(inferred.elem_type)
        raise ValueError(
            f"output {output.name!r} is of type {kind}: logits are FLOAT or FLOAT16; name them with --output"
        )
    if len(sizes) not in (2, 4) or sizes[1] < 1 or any(size != 1 for size in sizes[2:]):
        raise ValueError(f"output {output.name!r} has shape {sizes} (0 is open): logits N×K were expected")
    name = output.name
    if inferred.elem_type == TensorProto.FLOAT16:
        graph.node.append(helper.make_node("Cast", [name], [f"{name}.float"], to=TensorProto.FLOAT))
        name = f"{name}.float"
    if len(sizes) == 4:
        graph.node.append(helper.make_node("Flatten", [name], [f"{name}.flat"], axis=1))
        name = f"{name}.flat"
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, sizes[1]]))
    return int(sizes[1])
