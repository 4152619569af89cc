"""What `torch.onnx.export` makes of the same modules without the project's own nodes: the arm to compare with."""

import copy
import logging
import warnings
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from benchmarks.served_graph import ServedGraph
from models.opset import STANDARD_OPSET
from training.activations.entry import ActivationModule


class Formula(nn.Module):
    """An activation as any other module: the exporter finds operators for its formula."""

    def __init__(self, activation: ActivationModule) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation.formula(x)


@dataclass(frozen=True)
class PlainExport:
    """A plain export that runs, or why there is none."""

    graph: ServedGraph | None
    operators: str
    failure: str = ""


def export_plainly(module: nn.Module, shape: tuple[int, int, int], provider: str) -> PlainExport:
    """Export `module` for inputs N×`shape`, any N, and open it."""
    try:
        model = _export(_with_formulas(module).eval(), shape)
        graph = ServedGraph(model, provider)
        graph.bind(np.zeros((1, *shape), np.float32)).output()
    except Exception as error:  # Whatever keeps a plain export from running belongs in the table.
        return PlainExport(None, "–", f"plain export: {str(error).strip().splitlines()[0]}")
    return PlainExport(graph, "·".join(node.op_type for node in model.graph.node))


def _with_formulas(module: nn.Module) -> nn.Module:
    if isinstance(module, ActivationModule):
        return Formula(module)
    module = copy.deepcopy(module)
    activations = [path for path, part in module.named_modules() if isinstance(part, ActivationModule)]
    for path in activations:
        activation = module.get_submodule(path)
        assert isinstance(activation, ActivationModule)
        module.set_submodule(path, Formula(activation))
    return module


def _export(module: nn.Module, shape: tuple[int, int, int]) -> onnx.ModelProto:
    with warnings.catch_warnings():
        # About the exporter's internals.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            (torch.zeros(2, *shape),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=STANDARD_OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model
