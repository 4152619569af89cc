"""Deep networks: of blocks that are alike a few are traced, and the graph is that of a network traced whole."""

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tests.training.small import calibrate
from training.activations.entry import ActivationModule
from training.classifier import PixelClassifier
from training.export import graph as exporting
from training.export.graph import export
from training.export.published import PublishedClassifier
from training.export.repetition import TRACED, RepetitionError, find_runs, shortened
from training.resnet.block import ResidualBlock
from training.resnet.network import NetworkConfig, assemble
from training.resnet.variants import Variant

RESIDUAL = Variant("cifar", "basic", (4, 1), (4, 8), "padded", "linear")
REVERSIBLE = replace(RESIDUAL, depths=(5,), widths=(4,), stage="reversible", entry=8)
SIZE = 8


def classifier(variant: Variant, config: NetworkConfig) -> PixelClassifier:
    """A network of which no two weights are equal, learned slopes on both sides of 1 among them."""
    torch.manual_seed(0)
    made = PixelClassifier(assemble(variant, config), (127.5,) * 3, (64.0,) * 3)
    for module in made.modules():
        if isinstance(module, ActivationModule):
            for parameter in module.parameters():
                nn.init.uniform_(parameter, 0.1, 1.5)
    calibrate(made, SIZE)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            for parameter in module.parameters():
                nn.init.uniform_(parameter, 0.2, 0.5)
    return made.eval()


def frozen(model: PixelClassifier) -> PublishedClassifier:
    for module in model.modules():
        if isinstance(module, ActivationModule):
            module.freeze()
    return PublishedClassifier(model)


def told_by_content(model: onnx.ModelProto) -> tuple[list[bytes], dict[str, bytes]]:
    """Nodes and weights; constants that belong to no module are told by what is in them, not by their number."""
    model = copy.deepcopy(model)
    names = {tensor.name: tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name.startswith("val_"):
            names[tensor.name] = repr(numpy_helper.to_array(tensor))
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    nodes = [node.SerializeToString() for node in model.graph.node]
    return nodes, {names[t.name]: numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}


@pytest.mark.parametrize(
    ("variant", "config"),
    [
        (RESIDUAL, NetworkConfig(activation="prelu", regularisers={"stochastic_depth": 0.5})),
        (
            RESIDUAL,
            NetworkConfig(activation="prelu_shared", shortcut="exclusive_gating", arrangement="full_preactivation"),
        ),
        (REVERSIBLE, NetworkConfig(activation="elu", arrangement="full_preactivation")),
    ],
    ids=["original", "gated", "reversible"],
)
def test_the_graph_is_that_of_the_whole_network(
    variant: Variant, config: NetworkConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier(variant, config)
    assert len(find_runs(frozen(copy.deepcopy(model)))) == 1
    repeated = export(model, config.activation, (3, SIZE, SIZE))
    monkeypatch.setattr(exporting, "find_runs", lambda _: [])
    whole = export(model, config.activation, (3, SIZE, SIZE))
    assert told_by_content(repeated.model) == told_by_content(whole.model)
    assert list(repeated.model.functions) == list(whole.model.functions)
    assert (repeated.sites, repeated.blocks) == (whole.sites, whole.blocks)


def test_the_number_of_traced_blocks_does_not_depend_on_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    depth = 50
    published = frozen(classifier(replace(RESIDUAL, depths=(depth,), widths=(4,)), NetworkConfig()))
    traced: list[ResidualBlock] = []
    forward = ResidualBlock.forward

    def counted(block: ResidualBlock, *arguments: torch.Tensor) -> torch.Tensor:
        traced.append(block)
        return forward(block, *arguments)

    monkeypatch.setattr(ResidualBlock, "forward", counted)
    program = exporting._program(published, (3, SIZE, SIZE), find_runs(published))
    assert len(set(traced)) == TRACED
    assert sum(node.op_type == "Add" for node in program.model.graph) == depth


def test_only_neighbours_that_compute_the_same_are_repeated() -> None:
    published = frozen(classifier(replace(RESIDUAL, depths=(9, 4)), NetworkConfig()))
    (found,) = find_runs(published)
    assert found.blocks == tuple(f"network.layer1.{index}" for index in range(9))
    with shortened(published, [found]):
        assert len(list(published.get_submodule("network.layer1").children())) == TRACED
    assert len(list(published.get_submodule("network.layer1").children())) == 9
    published.get_submodule("network.layer1.4.bn1").eps = 1e-3  # type: ignore[assignment]
    assert [run.blocks for run in find_runs(published)] == [found.blocks[:4], found.blocks[5:]]
    published.get_submodule("network.layer1.7").register_buffer("of_its_own", torch.zeros(1))
    published.get_submodule("network.layer1.1").numbers = np.arange(3)  # type: ignore[assignment]
    published.get_submodule("network.layer1.2").numbers = np.arange(3)  # type: ignore[assignment]
    assert not find_runs(published)


def test_what_follows_no_pattern_is_traced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class TracedWholeError(Exception):
        pass

    def refuse(_: object, __: object, runs: list[object]) -> None:
        raise RepetitionError("no pattern") if runs else TracedWholeError

    monkeypatch.setattr(exporting, "_program", refuse)
    model = classifier(replace(RESIDUAL, depths=(5,), widths=(4,)), NetworkConfig())
    with pytest.raises(TracedWholeError):
        export(model, "relu", (3, SIZE, SIZE))
