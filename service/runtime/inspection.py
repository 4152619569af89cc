"""What is looked at before a model is served: its graph and its manifest must belong together."""

from collections.abc import Iterable, Iterator, Sequence

import onnx
import onnxruntime

from models.manifest import ATTENTION, ModelManifest, TensorSpec

DATATYPES = {"tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(uint8)": "UINT8"}


def check_manifest(manifest: ModelManifest) -> None:
    """Raise ValueError where parts of the manifest contradict each other, or ask for what this service cannot do."""
    (images,), (logits, *others) = manifest.inputs, manifest.outputs
    for spec in (images, *manifest.outputs):
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
    for spec in others:
        if spec.name != ATTENTION:
            raise ValueError(f"output {spec.name!r} is unknown: beside the logits there may be {ATTENTION!r}")
        if len(spec.shape) != 3 or spec.shape[0] != -1 or min(spec.shape[1:]) < 1:
            raise ValueError(f"output {spec.name!r} has shape {spec.shape}, expected (-1, height, width)")


def parse_graph(graph: bytes) -> onnx.ModelProto:
    """Raise ValueError where the bytes are no ONNX model."""
    try:
        return onnx.load_from_string(graph)
    except Exception as error:  # protobuf's DecodeError has no public type
        raise ValueError(f"the graph is not an ONNX model: {error}") from error


def check_channels(graph: onnx.ModelProto, manifest: ModelManifest) -> None:
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


def check_signature(
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


def refuse_external_data(model: onnx.ModelProto) -> None:
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
