"""A trained classifier → an ONNX graph, each activation one node of the project's domain, checked against PyTorch."""

import copy
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from models.manifest import ActivationSite, BlockEnd, TensorSpec
from models.opset import DOMAIN, DOMAIN_VERSION, IR_VERSION, STANDARD_OPSET
from models.overloads import choose_overload
from training.activations.catalogue import find_activation
from training.activations.entry import ActivationModule
from training.classifier import PixelClassifier
from training.export.published import LOGITS, PublishedClassifier
from training.export.repetition import RepetitionError, Run, find_runs, lengthen, shortened
from training.export.simplification import simplify
from training.export.sites import NETWORK, find_blocks, find_sites, module_path
from training.resnet.recurrent import BidirectionalReader

logger = logging.getLogger("reslens")

INPUT = "images"
OUTPUT = LOGITS
PARITY_BATCHES = (1, 2, 7)
# Enough images for a majority.
PARITY_BATCHES_OF_STEPS = (7, 15)
PARITY_TOLERANCE = 1e-4


class ExportParityError(ValueError):
    """The exported graph does not compute what the PyTorch model computes."""


@dataclass(frozen=True)
class ExportedGraph:
    """A checked graph, and where its activations and block ends are."""

    model: onnx.ModelProto
    sites: tuple[ActivationSite, ...]
    blocks: tuple[BlockEnd, ...]
    outputs: tuple[TensorSpec, ...]
    """Logits first."""
    parity: float
    """Largest absolute difference of any output from PyTorch's that was seen."""


def export(
    classifier: PixelClassifier,
    activation: str,
    image_shape: tuple[int, int, int],
    activation_parameters: Mapping[str, float] | None = None,
) -> ExportedGraph:
    """Export `classifier`, built with this activation and its parameters, for pixels of shape N×`image_shape`, any N.

    Raises `ExportParityError` when an output differs from PyTorch's by more than 1e-4 on fresh random images, and
    `ValueError` when two activations bring different bodies of one name.
    """
    entry = find_activation(activation, activation_parameters)
    classifier = copy.deepcopy(classifier).eval()
    modules = dict(classifier.named_modules())
    for module in modules.values():
        if isinstance(module, (ActivationModule, BidirectionalReader)):
            module.freeze()
    published = PublishedClassifier(classifier)
    model = _trace(published, image_shape)
    _name_after_modules(model.graph)
    _add_functions(model, modules.values())
    sites = find_sites(model.graph, activation, entry, modules)
    blocks = find_blocks(model.graph, modules)
    _strip_metadata(model)
    onnx.checker.check_model(model, full_check=True)
    # The overloads are made of standard operators too: wherever they are faster, they must be right here.
    graphs = [choose_overload(model, name) for name in sorted({function.overload for function in model.functions})]
    parity = max(check_parity(graph, classifier, image_shape, entry.continuous) for graph in graphs)
    return ExportedGraph(model, sites, blocks, _outputs(published, image_shape), parity)


def _outputs(published: PublishedClassifier, image_shape: tuple[int, int, int]) -> tuple[TensorSpec, ...]:
    with torch.inference_mode():
        values = published(torch.zeros(1, *image_shape))
    return tuple(
        TensorSpec(name=name, datatype="FP32", shape=(-1, *value.shape[1:]))
        for name, value in zip(published.names, values, strict=True)
    )


def check_parity(
    model: onnx.ModelProto, classifier: PixelClassifier, image_shape: tuple[int, int, int], continuous: bool = True
) -> float:
    """The largest |ONNX Runtime − PyTorch| of any output over batches of 1, 2 and 7 fresh random images.

    Unless the activation is continuous, the better half of the images of each batch counts: where a pre-activation
    is 0 but for rounding, a step falls on either side, and that image alone has other logits.

    Raises `ExportParityError` when it exceeds 1e-4 or is not a number.
    """
    session = open_session(model)
    published = PublishedClassifier(classifier)
    random = np.random.default_rng()
    worst = 0.0
    for batch in PARITY_BATCHES if continuous else PARITY_BATCHES_OF_STEPS:
        pixels: NDArray[np.float32] = random.integers(0, 256, (batch, *image_shape)).astype(np.float32)
        with torch.inference_mode():
            expected = published(torch.from_numpy(pixels))
        for name, actual, value in zip(
            published.names, session.run(published.names, {INPUT: pixels}), expected, strict=True
        ):
            by_image = _by_image(actual, value.numpy())
            difference = float(by_image.max() if continuous else np.median(by_image))
            if not difference <= PARITY_TOLERANCE:
                raise ExportParityError(
                    f"{name} of the exported graph differ from PyTorch's by {difference} at batch {batch}; "
                    f"at most {PARITY_TOLERANCE} is allowed: the graph was not published"
                )
            worst = max(worst, difference)
    return worst


def _by_image(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest absolute difference in each image; not a number where the shapes differ."""
    if actual.shape != expected.shape:
        return np.full(len(expected), np.nan, np.float32)
    largest: NDArray[np.float32] = np.abs(actual - expected).reshape(len(expected), -1).max(1)
    return largest


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session of a stock ONNX Runtime on the CPU: what checks and measures a graph before it is published."""
    options = onnxruntime.SessionOptions()
    # Errors only.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _trace(published: PublishedClassifier, image_shape: tuple[int, int, int]) -> onnx.ModelProto:
    runs = find_runs(published)
    try:
        program = _program(published, image_shape, runs)
    except RepetitionError as error:
        logger.info("every block is traced, which takes long for a deep network: %s", error)
        program = _program(published, image_shape, [])
    simplify(program.model)
    model: onnx.ModelProto = program.model_proto
    model.ir_version = IR_VERSION
    model.producer_name = "reslens"
    return model


def _program(
    published: PublishedClassifier, image_shape: tuple[int, int, int], runs: Sequence[Run]
) -> torch.onnx.ONNXProgram:
    """The whole network, not optimised yet; of blocks that are alike a few are traced, and repeated."""
    with warnings.catch_warnings(), shortened(published, runs):
        # The exporter warns about its own internals and logs that torchvision is absent, which it does not need; what
        # matters about the graph is checked below.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            published,
            (torch.zeros(2, *image_shape),),
            input_names=[INPUT],
            output_names=list(published.names),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=STANDARD_OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    lengthen(program.model.graph, published, runs)
    return program


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
        renamed[tensor.name] = unique(tensor.name.removeprefix(NETWORK))
        tensor.name = renamed[tensor.name]
    for node in graph.node:
        path = module_path(node)
        base = path if node.domain == DOMAIN else ".".join(part for part in (path, node.op_type.lower()) if part)
        node.name = unique(base)
        for index, output in enumerate(node.output):
            renamed[output] = output if output in kept else unique(f"{node.name}.{index}") if index else node.name
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    del graph.value_info[:]


def _add_functions(model: onnx.ModelProto, modules: Iterable[torch.nn.Module]) -> None:
    functions: dict[tuple[str, str], onnx.FunctionProto] = {}
    for module in modules:
        if isinstance(module, ActivationModule):
            for function in module.frozen_node().functions():
                if functions.setdefault((function.name, function.overload), function) != function:
                    raise ValueError(f"two activations bring different ONNX bodies named {function.name!r}: rename one")
    model.functions.extend(functions.values())
    versions = {entry.domain: entry for entry in model.opset_import}
    if DOMAIN not in versions:
        model.opset_import.add(domain=DOMAIN, version=DOMAIN_VERSION)


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Drop the exporter's traces: stack traces and file names of the machine that exported."""
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
