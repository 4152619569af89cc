"""What an export refuses: a graph that computes something else, and two bodies of one name."""

import copy
from pathlib import Path

import pytest
import torch
from onnx import FunctionProto
from onnxscript import opset20 as op
from onnxscript import script
from onnxscript.values import Opset
from torch import Tensor, nn

from models.opset import DOMAIN, DOMAIN_VERSION
from models.repository import ModelRepository
from tests.training.small import classifier, problem
from training.activations.catalogue import ACTIVATIONS
from training.activations.entry import Activation, ActivationModule, ActivationNode
from training.data import sources
from training.data.sources import DataConfig
from training.export.graph import ExportParityError, check_parity, export
from training.publication.bundle import publish
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig
from training.run import Run, RunConfig


def test_parity_is_judged_on_every_logit() -> None:
    """A difference of 2e-4 in one logit is too much; so is a logit that is not a number."""
    model = classifier("resnet8", "relu", "original")
    graph = export(model, "relu", (3, 8, 8)).model
    assert check_parity(graph, model, (3, 8, 8)) <= 1e-4
    for change, message in [(2e-4, r"by 0\.000"), (float("nan"), "by nan")]:
        other = copy.deepcopy(model)
        other.network.linear.bias.data[3] += change
        with pytest.raises(ExportParityError, match=f"differ from PyTorch's {message}"):
            check_parity(graph, other, (3, 8, 8))


reslens = Opset(DOMAIN, DOMAIN_VERSION)


@script(reslens, default_opset=op)
def AlmostRelu(x):  # noqa: N802
    return op.LeakyRelu(x, alpha=0.01)


class WrongBody(ActivationModule):
    """f(x) = max(0, x), exported as something else."""

    def formula(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def node(self) -> ActivationNode:
        return ActivationNode(AlmostRelu)


def entry(module: type[ActivationModule]) -> Activation:
    return Activation(formula="max(0, x)", module=module, source="this test", use="none", slopes=(0.0, 1.0))


def test_a_wrong_body_is_neither_exported_nor_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACTIVATIONS, "wrong", entry(WrongBody))
    monkeypatch.setitem(sources.SOURCES, "digits", lambda *_: problem())
    config = RunConfig(
        NetworkConfig("resnet8", "wrong", "original", classes=3, channels=1),
        DataConfig(),
        Recipe(epochs=1, batch_size=16),
    )
    Run(tmp_path / "run", config).train(problem(), torch.device("cpu"), resume=False)
    repository = ModelRepository(tmp_path / "shelf")
    with pytest.raises(ExportParityError, match=r"differ from PyTorch's by .* at most 0\.0001 is allowed"):
        publish(tmp_path / "run", repository, "wrong")
    assert repository.entries() == []
    assert not (tmp_path / "shelf").exists() or not any((tmp_path / "shelf").rglob("*.onnx"))


class Relu(WrongBody):
    """f(x) = max(0, x), with a body of its own under the name of the catalogue's."""

    def node(self) -> ActivationNode:
        return ActivationNode(Named("Relu"))


class Named:
    """The body above under another name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def to_function_proto(self) -> FunctionProto:
        function = AlmostRelu.to_function_proto()
        function.name = self.name
        return function


def test_two_bodies_of_one_name_are_not_exported() -> None:
    """A network whose sites are not all of one kind: each body must be found under its name."""
    model = classifier("resnet8", "relu", "original")
    name = ACTIVATIONS["relu"].build(1).node().body.name
    assert name == "Relu"
    model.network.layer2[0].act1 = Relu(32)
    with pytest.raises(ValueError, match="two activations bring different ONNX bodies named 'Relu': rename one"):
        export(model, "relu", (3, 8, 8))


def test_sites_of_two_kinds_bring_both_bodies() -> None:
    model = classifier("resnet8", "relu", "original")
    model.network.layer2[0].act1 = ACTIVATIONS["mish"].build(32)
    exported = export(model, "relu", (3, 8, 8)).model
    used = {node.op_type for node in exported.graph.node if node.domain == DOMAIN}
    assert len(used) == 2
    assert {function.name for function in exported.functions} == used


@pytest.mark.parametrize(("share", "refused"), [(0.3, False), (0.7, True)])
def test_a_step_is_judged_by_most_of_the_images(share: float, refused: bool) -> None:
    """A rounding error that falls on the other side of 0 changes one image; a wrong body changes most."""
    graph = export(classifier("resnet8", "relu", "original"), "relu", (3, 8, 8)).model

    class Sometimes(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.right = network

        def forward(self, images: Tensor) -> Tensor:
            wrong = torch.arange(len(images)) < share * len(images)
            return self.right(images) + wrong[:, None]

    model = classifier("resnet8", "relu", "original")
    model.network = Sometimes(model.network)
    with pytest.raises(ExportParityError):
        check_parity(graph, model, (3, 8, 8))
    if refused:
        with pytest.raises(ExportParityError):
            check_parity(graph, model, (3, 8, 8), continuous=False)
    else:
        assert check_parity(graph, model, (3, 8, 8), continuous=False) <= 1e-4
