"""The exported graph against the PyTorch network it came from, for every activation of the catalogue."""

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnxscript import opset20 as op
from onnxscript import script
from onnxscript.values import Opset
from torch import Tensor, nn

from models.instrument import instrument
from models.manifest import ModelManifest, Saturation
from models.opset import DOMAIN, DOMAIN_VERSION, STANDARD_OPSET
from models.repository import ModelRepository
from tests.models import graphs
from tests.models.test_instrument import fused_convolutions
from tests.training.small import classifier, problem
from training.activations.catalogue import ACTIVATIONS
from training.activations.entry import Activation, ActivationModule, ActivationNode
from training.classifier import PixelClassifier
from training.data import sources
from training.data.sources import DataConfig
from training.export import ExportedGraph, ExportParityError, check_parity, export
from training.publication import publish
from training.recipe import Recipe
from training.resnet.arrangements import ARRANGEMENTS, ResidualBlock
from training.resnet.network import NetworkConfig
from training.resnet.variants import VARIANTS, Variant
from training.run import Run, RunConfig

# Every activation, every arrangement, both families, both kinds of branch; the last member of a case is the image size.
NAMES = list(ARRANGEMENTS)
CASES = [
    *[("resnet8", activation, NAMES[n % len(NAMES)], 16) for n, activation in enumerate(ACTIVATIONS, 1)],
    ("resnet14", "relu", "full_preactivation", 8),
    ("resnet18", "swish", "original", 64),
    ("bottleneck", "prelu", "original", 16),
    ("bottleneck", "relu", "full_preactivation", 16),
]
# ResNet-50 in small.
BOTTLENECK = Variant("imagenet", "bottleneck", (1, 2), (8, 16), "projection", "fc")
# Every operator that computes an activation, or a part of one.
ACTIVATION_OPERATORS = {
    "Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max",
    "Min", "Mish", "PRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh",
    "ThresholdedRelu", "Where",
}  # fmt: skip


@dataclass(frozen=True)
class Exported:
    classifier: PixelClassifier
    before: PixelClassifier
    """A copy of the classifier from before the export, in training mode as it was."""
    graph: ExportedGraph
    activation: str
    size: int

    def pixels(self, batch: int, seed: int = 0) -> NDArray[np.float32]:
        random = np.random.default_rng(seed)
        return random.integers(0, 256, (batch, 3, self.size, self.size)).astype(np.float32)

    def modules(self, kind: type[nn.Module]) -> dict[str, nn.Module]:
        return {name: module for name, module in self.classifier.network.named_modules() if isinstance(module, kind)}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case[:3]))
def exported(request: pytest.FixtureRequest) -> Exported:
    network, activation, arrangement, size = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "bottleneck", BOTTLENECK)
        given = classifier(network, activation, arrangement).train()
    before = copy.deepcopy(given)
    graph = export(given, activation, (3, size, size))
    assert given.training, "the network goes on training as if nothing had happened"
    return Exported(given, before, graph, activation, size)


def assert_close(actual: NDArray[np.float64], expected: NDArray[np.float32], name: str) -> None:
    """Within what float32 can hold at this tensor's scale."""
    assert actual.shape == expected.shape, name
    assert np.abs(actual - expected).max() <= 1e-5 * (1 + np.abs(expected).max()), name


def run(model: onnx.ModelProto, pixels: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Every output of the graph, from a stock ONNX Runtime."""
    return graphs.run(model, pixels)


def observed(classifier: PixelClassifier, pixels: NDArray[np.float32]) -> dict[str, tuple[Tensor, Tensor]]:
    """(First input, output) of every module of the network, by forward hooks."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
        for name, module in classifier.network.named_modules()
    ]
    with torch.no_grad():
        classifier.eval()(torch.from_numpy(pixels))
    for hook in hooks:
        hook.remove()
    return seen


class TestEveryExport:
    @pytest.mark.parametrize("batch", [1, 2, 7])
    def test_logits_equal_pytorchs(self, exported: Exported, batch: int) -> None:
        pixels = exported.pixels(batch, seed=batch)
        with torch.no_grad():
            expected = copy.deepcopy(exported.before).eval()(torch.from_numpy(pixels)).numpy()
        actual = run(exported.graph.model, pixels)["logits"]
        assert expected.std() > 0.01
        assert np.abs(actual - expected).max() <= 1e-4
        assert 0 <= exported.graph.parity <= 1e-4

    def test_one_node_for_each_activation_named_after_its_module(self, exported: Exported) -> None:
        modules = exported.modules(ActivationModule)
        nodes = [node for node in exported.graph.model.graph.node if node.domain == DOMAIN]
        assert sorted(node.name for node in nodes) == sorted(modules)
        assert {site.name: site.tensor for site in exported.graph.sites} == {
            node.name: node.output[0] for node in nodes
        }
        assert len(nodes) >= 6

    def test_sites_say_what_the_catalogue_says(self, exported: Exported) -> None:
        entry = ACTIVATIONS[exported.activation]
        for site in exported.graph.sites:
            assert site.activation == exported.activation
            assert site.signed == entry.signed
            assert site.saturation == entry.saturation

    def test_sites_are_the_outputs_of_their_modules(self, exported: Exported) -> None:
        pixels = exported.pixels(2)
        seen = observed(exported.classifier, pixels)
        tensors = graphs.tensors(exported.graph.model, [site.tensor for site in exported.graph.sites], pixels)
        for site in exported.graph.sites:
            expected = seen[site.name][1].numpy()
            assert site.channels == expected.shape[1]
            assert_close(tensors[site.tensor], expected, site.name)

    def test_block_ends_are_what_leaves_the_blocks(self, exported: Exported) -> None:
        pixels = exported.pixels(2)
        seen = observed(exported.classifier, pixels)
        blocks = exported.modules(ResidualBlock)
        assert [block.name for block in exported.graph.blocks] == list(blocks)
        names = sorted({name for block in exported.graph.blocks for name in (block.output, block.shortcut)})
        tensors = graphs.tensors(exported.graph.model, names, pixels)
        for block in exported.graph.blocks:
            entered, left = seen[block.name]
            changed = not isinstance(blocks[block.name].downsample, nn.Identity)
            shortcut = seen[f"{block.name}.downsample"][1] if changed else entered
            assert_close(tensors[block.output], left.numpy(), block.name)
            assert_close(tensors[block.shortcut], shortcut.numpy(), block.name)

    def test_activations_are_computed_in_functions_alone(self, exported: Exported) -> None:
        model = exported.graph.model
        outside = {node.op_type for node in model.graph.node if node.domain != DOMAIN}
        assert not outside & ACTIVATION_OPERATORS
        assert {node.domain for node in model.graph.node} == {"", DOMAIN}
        used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
        assert {function.name for function in model.functions} == used
        assert {function.domain for function in model.functions} == {DOMAIN}
        assert {node.domain for function in model.functions for node in function.node} == {""}

    def test_checker_accepts_it_and_it_says_its_dialect(self, exported: Exported) -> None:
        model = exported.graph.model
        onnx.checker.check_model(model, full_check=True)
        assert {entry.domain: entry.version for entry in model.opset_import} == {
            "": STANDARD_OPSET,
            DOMAIN: DOMAIN_VERSION,
        }

    def test_batch_alone_is_dynamic(self, exported: Exported) -> None:
        model = exported.graph.model
        (images,), (logits,) = model.graph.input, model.graph.output
        assert (images.name, logits.name) == ("images", "logits")
        batch, *rest = images.type.tensor_type.shape.dim
        assert batch.dim_param
        assert [size.dim_value for size in rest] == [3, exported.size, exported.size]
        assert [dim.dim_param or dim.dim_value for dim in logits.type.tensor_type.shape.dim] == [batch.dim_param, 10]

    def test_names_are_those_of_the_modules(self, exported: Exported) -> None:
        """Every node and tensor is named once, and after a module: nothing of the wrapper or the exporter is left."""
        graph = exported.graph.model.graph
        assert len({node.name for node in graph.node}) == len(graph.node)
        assert not any(name.startswith("network") for node in graph.node for name in (node.name, *node.output))
        for site in exported.graph.sites:
            assert site.tensor == site.name

    def test_the_network_given_is_left_alone(self, exported: Exported) -> None:
        before, after = exported.before, exported.classifier
        assert {name for name, _ in after.named_buffers()} == {name for name, _ in before.named_buffers()}
        assert set(after.state_dict()) == set(before.state_dict())
        assert all(torch.equal(value, before.state_dict()[name]) for name, value in after.state_dict().items())
        assert all(parameter.requires_grad for parameter in after.parameters())

    def test_nothing_of_this_machine_is_in_the_file(self, exported: Exported) -> None:
        content = exported.graph.model.SerializeToString()
        here = {
            str(Path(__file__).parents[2]),
            sys.prefix,
            sys.base_prefix,
            str(Path.home()),
            str(Path(torch.__file__).parent),
        }
        for trace in [*here, "site-packages", "Traceback", ".py"]:
            assert trace.encode() not in content, trace
        assert [text for text in strings(exported.graph.model) if "/" in text or "\\" in text] == []

    def test_instrumented_logits_are_the_same_and_every_fusion_survives(
        self, exported: Exported, tmp_path: Path
    ) -> None:
        plain = exported.graph.model
        instrumented = instrument(plain, manifest(exported))
        pixels = exported.pixels(2)
        np.testing.assert_allclose(
            run(instrumented, pixels)["logits"], run(plain, pixels)["logits"], rtol=1e-5, atol=1e-5
        )
        for level in ("ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
            chosen = getattr(onnxruntime.GraphOptimizationLevel, level)
            assert fused_convolutions(instrumented, chosen, tmp_path) == fused_convolutions(plain, chosen, tmp_path)


def strings(message: Message) -> Iterator[str]:
    """Every text in a protobuf message, but not the weights."""
    for field, value in message.ListFields():
        for item in value if field.is_repeated else [value]:
            if isinstance(item, Message):
                yield from strings(item)
            elif isinstance(item, str):
                yield item
            elif isinstance(item, bytes) and field.name not in ("raw_data",):
                yield item.decode(errors="replace")


def manifest(exported: Exported) -> ModelManifest:
    graph = exported.graph
    described = graphs.manifest("rectifier", sites=graph.sites, blocks=graph.blocks)
    shape = (-1, 3, exported.size, exported.size)
    return described.model_copy(update={"inputs": (described.inputs[0].model_copy(update={"shape": shape}),)})


def test_every_arrangement_is_exported() -> None:
    assert {arrangement for _, _, arrangement, _ in CASES} == set(ARRANGEMENTS)


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


def test_a_wrong_body_is_neither_exported_nor_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Activation("max(0, x)", lambda _: WrongBody(), False, Saturation(below=0.0), "this test")
    monkeypatch.setitem(ACTIVATIONS, "wrong", wrong)
    monkeypatch.setitem(sources.SOURCES, "digits", lambda _: problem())
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
