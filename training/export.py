"""A trained classifier → an ONNX graph, each activation one node of the project's domain, checked against PyTorch."""

import ast
import copy
import logging
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from models.manifest import ActivationSite, BlockEnd
from models.opset import DOMAIN, DOMAIN_VERSION, IR_VERSION, STANDARD_OPSET
from models.overloads import choose_overload
from training.activations.catalogue import find_activation
from training.activations.entry import Activation, ActivationModule
from training.activations.meaning import normal_moments
from training.classifier import PixelClassifier
from training.resnet.arrangements import ResidualBlock

INPUT = "images"
OUTPUT = "logits"
PARITY_BATCHES = (1, 2, 7)
PARITY_TOLERANCE = 1e-4
_NETWORK = "network."


class ExportParityError(ValueError):
    """The exported graph does not compute what the PyTorch model computes."""


@dataclass(frozen=True)
class ExportedGraph:
    """A checked graph, and where its activations and block ends are."""

    model: onnx.ModelProto
    sites: tuple[ActivationSite, ...]
    blocks: tuple[BlockEnd, ...]
    parity: float
    """Largest absolute difference of logits from PyTorch's that was seen."""


def export(
    classifier: PixelClassifier,
    activation: str,
    image_shape: tuple[int, int, int],
    activation_parameters: Mapping[str, float] | None = None,
) -> ExportedGraph:
    """Export `classifier`, built with this activation and its parameters, for pixels of shape N×`image_shape`, any N.

    Raises `ExportParityError` when the logits differ from PyTorch's by more than 1e-4 on fresh random images, and
    `ValueError` when two activations bring different bodies of one name.
    """
    entry = find_activation(activation, activation_parameters)
    classifier = copy.deepcopy(classifier).eval()
    modules = dict(classifier.named_modules())
    for module in modules.values():
        if isinstance(module, ActivationModule):
            module.freeze()
    model = _trace(classifier, image_shape)
    _name_after_modules(model.graph)
    _add_functions(model, modules.values())
    sites = _find_sites(model.graph, activation, entry, modules)
    blocks = _find_blocks(model.graph, modules)
    _strip_metadata(model)
    onnx.checker.check_model(model, full_check=True)
    # The overloads are made of standard operators too: wherever they are faster, they must be right here.
    overloads = {function.overload for function in model.functions}
    parity = max(check_parity(choose_overload(model, name), classifier, image_shape) for name in sorted(overloads))
    return ExportedGraph(model, sites, blocks, parity)


def check_parity(model: onnx.ModelProto, classifier: PixelClassifier, image_shape: tuple[int, int, int]) -> float:
    """The largest |ONNX Runtime − PyTorch| logit over batches of 1, 2 and 7 fresh random images.

    Raises `ExportParityError` when it exceeds 1e-4 or is not a number.
    """
    session = open_session(model)
    random = np.random.default_rng()
    worst = 0.0
    for batch in PARITY_BATCHES:
        pixels: NDArray[np.float32] = random.integers(0, 256, (batch, *image_shape)).astype(np.float32)
        (actual,) = session.run([OUTPUT], {INPUT: pixels})
        with torch.inference_mode():
            expected = classifier(torch.from_numpy(pixels)).numpy()
        difference = float(np.abs(actual - expected).max()) if actual.shape == expected.shape else float("nan")
        if not difference <= PARITY_TOLERANCE:
            raise ExportParityError(
                f"logits of the exported graph differ from PyTorch's by {difference} at batch {batch}; "
                f"at most {PARITY_TOLERANCE} is allowed: the graph was not published"
            )
        worst = max(worst, difference)
    return worst


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session of a stock ONNX Runtime on the CPU: what checks and measures a graph before it is published."""
    options = onnxruntime.SessionOptions()
    # Errors only.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _trace(classifier: PixelClassifier, image_shape: tuple[int, int, int]) -> onnx.ModelProto:
    with warnings.catch_warnings():
        # The exporter warns about its own internals and logs that torchvision is absent, which it does not need; what
        # matters about the graph is checked below.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            classifier,
            (torch.zeros(2, *image_shape),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=STANDARD_OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    model.ir_version = IR_VERSION
    model.producer_name = "reslens"
    return model


def _module_path(node: onnx.NodeProto) -> str:
    """Path of the innermost module that the node was traced in, without the wrapper's own name."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            # The last scope is the operation itself.
            path: str = ast.literal_eval(entry.value)[-2]
            return path.removeprefix(_NETWORK.rstrip(".")).removeprefix(".")
    return ""


def _name_after_modules(graph: onnx.GraphProto) -> None:
    """Name nodes and the tensors between them after the modules that made them; weights lose the wrapper's prefix."""
    kept = {tensor.name for tensor in (*graph.input, *graph.output)}
    renamed: dict[str, str] = {}
    taken = set(kept)

    def unique(base: str) -> str:
        name, number = base, 2
        while name in taken:
            name, number = f"{base}.{number}", number + 1
        taken.add(name)
        return name

    for tensor in graph.initializer:
        renamed[tensor.name] = unique(tensor.name.removeprefix(_NETWORK))
        tensor.name = renamed[tensor.name]
    for node in graph.node:
        path = _module_path(node)
        base = path if node.domain == DOMAIN else ".".join(part for part in (path, node.op_type.lower()) if part)
        node.name = unique(base)
        for output in node.output:
            renamed[output] = output if output in kept else node.name
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    del graph.value_info[:]


def _add_functions(model: onnx.ModelProto, modules: Iterable[torch.nn.Module]) -> None:
    bodies: dict[tuple[str, str], onnx.FunctionProto] = {}
    for module in modules:
        if isinstance(module, ActivationModule):
            node = module.frozen_node()
            for overload, body in {"": node.body, **node.overloads}.items():
                function = body.to_function_proto()
                function.name, function.overload = node.body.name, overload
                if bodies.setdefault((function.name, overload), function) != function:
                    raise ValueError(f"two activations bring different ONNX bodies named {function.name!r}: rename one")
    model.functions.extend(bodies.values())
    versions = {entry.domain: entry for entry in model.opset_import}
    if DOMAIN not in versions:
        model.opset_import.add(domain=DOMAIN, version=DOMAIN_VERSION)


def _find_sites(
    graph: onnx.GraphProto, activation: str, entry: Activation, modules: Mapping[str, torch.nn.Module]
) -> tuple[ActivationSite, ...]:
    found = {
        name.removeprefix(_NETWORK): module for name, module in modules.items() if isinstance(module, ActivationModule)
    }
    nodes = [node for node in graph.node if node.domain == DOMAIN]
    assert sorted(node.name for node in nodes) == sorted(found), "one node for each activation module"
    return tuple(_site(node, activation, entry, found[node.name]) for node in nodes)


def _site(node: onnx.NodeProto, activation: str, entry: Activation, module: ActivationModule) -> ActivationSite:
    moments = normal_moments(entry, module)
    low, high = (bound if math.isfinite(bound) else None for bound in module.output_range)
    return ActivationSite(
        name=node.name,
        activation=activation,
        tensor=node.output[0],
        channels=module.output_channels(),
        signed=module.signed,
        saturation=module.saturation,
        output_range=(low, high),
        zero_is_dead=module.zero_is_dead,
        normal_mean=moments.mean if moments else None,
        normal_variance=moments.variance if moments else None,
    )


def _find_blocks(graph: onnx.GraphProto, modules: Mapping[str, torch.nn.Module]) -> tuple[BlockEnd, ...]:
    """Each block's sum is the one Add in its own scope; what leaves the block is the sum or the activation after it.

    An activation that changes the number of channels cannot be compared with the shortcut: then it is the sum.
    """
    blocks = []
    for path in (path for path, module in modules.items() if isinstance(module, ResidualBlock)):
        name = path.removeprefix(_NETWORK)
        (add,) = (node for node in graph.node if node.op_type == "Add" and _module_path(node) == name)
        after = [node for node in graph.node if add.output[0] in node.input]
        closing = [node for node in after if node.domain == DOMAIN and node.name.startswith(f"{name}.")]
        same = closing and _keeps_channels(modules[_NETWORK + closing[0].name])
        output = closing[0].output[0] if same else add.output[0]
        blocks.append(BlockEnd(name=name, output=output, shortcut=add.input[1]))
    return tuple(blocks)


def _keeps_channels(module: torch.nn.Module) -> bool:
    return isinstance(module, ActivationModule) and module.output_channels() == module.channels


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Drop the exporter's traces: stack traces and file names of the machine that exported."""
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
