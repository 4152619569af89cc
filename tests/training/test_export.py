"""The exported graph against the PyTorch network it came from, for every activation of the catalogue."""

import copy
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from models.instrument import instrument
from models.opset import DOMAIN, DOMAIN_VERSION, IR_VERSION, STANDARD_OPSET
from models.statistics import layout
from tests.models import graphs
from tests.models.test_instrument import fused_convolutions
from tests.training.cases import ENTRIES
from tests.training.exports import (
    BOTTLENECK,
    CASES,
    GAIN,
    Exported,
    assert_close,
    manifest,
    observed,
    run,
    saturated,
    strings,
)
from tests.training.small import calibrate, classifier
from training.activations.entry import ActivationModule
from training.activations.meaning import normal_moments
from training.export.graph import export
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.block import ResidualBlock
from training.resnet.merges import MERGES
from training.resnet.normalisers import NORMALISERS
from training.resnet.variants import VARIANTS

# Every operator that computes an activation, or a part of one.
ACTIVATION_OPERATORS = {
    "Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max",
    "Min", "Mish", "PRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh",
    "ThresholdedRelu", "Where",
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES, ids=str)
def exported(request: pytest.FixtureRequest) -> Exported:
    case = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "bottleneck", BOTTLENECK)
        given = classifier(
            case.network,
            case.activation,
            case.arrangement,
            parameters=dict(case.parameters),
            shortcut=case.shortcut,
            normaliser=case.normaliser,
        )
    calibrate(given, case.size, GAIN.get(case.activation, 1.0))
    given.train()
    before = copy.deepcopy(given)
    graph = export(given, case.activation, (3, case.size, case.size), dict(case.parameters))
    assert given.training, "the network goes on training as if nothing had happened"
    return Exported(case, given, before, graph)


class TestEveryExport:
    @pytest.mark.parametrize("batch", [1, 2, 7])
    def test_logits_equal_pytorchs(self, exported: Exported, batch: int) -> None:
        pixels = exported.pixels(batch, seed=batch)
        expected = exported.logits(pixels)
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
        modules = exported.modules(ActivationModule)
        for site in exported.graph.sites:
            module = modules[site.name]
            assert isinstance(module, ActivationModule)
            low, high = (bound if np.isfinite(bound) else None for bound in module.output_range)
            moments = normal_moments(exported.entry, module)
            assert site.activation == exported.case.activation
            assert (site.signed, site.saturation) == (module.signed, module.saturation)
            assert (site.output_range, site.zero_is_dead) == ((low, high), module.zero_is_dead)
            assert (site.normal_mean is None) == (moments is None)
            if moments is not None:
                assert (site.normal_mean, site.normal_variance) == (moments.mean, moments.variance)

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
        joined = {name: block for name, block in blocks.items() if block.downsample is not None}
        assert [block.name for block in exported.graph.blocks] == list(joined)
        names = sorted({name for block in exported.graph.blocks for name in (block.output, block.shortcut)})
        tensors = graphs.tensors(exported.graph.model, names, pixels)
        for block in exported.graph.blocks:
            entered, left = seen[block.name]
            changed = not isinstance(blocks[block.name].downsample, nn.Identity)
            shortcut = seen[f"{block.name}.downsample"][1] if changed else entered
            if f"{block.name}.merge" in seen:
                # What it makes of branch and shortcut.
                _, shortcut = seen[f"{block.name}.merge"][1]
            closing = [f"{block.name}.{name}" for name in blocks[block.name].closing]
            if closing and (len(closing) > 1 or left.shape != seen[closing[0]][0].shape):
                # Normalised, or other channels leave than are summed: the sum is what the shortcut is compared with.
                left = seen[closing[0]][0]
            assert left.shape == shortcut.shape
            assert_close(tensors[block.output], left.numpy(), block.name)
            assert_close(tensors[block.shortcut], shortcut.numpy(), block.name)

    def test_activations_are_computed_in_functions_alone(self, exported: Exported) -> None:
        model = exported.graph.model
        outside = {node.op_type for node in model.graph.node if node.domain != DOMAIN}
        # A gate is no activation: its sigmoid stands in the graph itself.
        gates = {"Sigmoid"} if exported.case.shortcut.endswith("gating") else set()
        assert outside & ACTIVATION_OPERATORS == gates
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
        assert model.ir_version == IR_VERSION

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
        for trace in [*here, "site-packages", "Traceback"]:
            assert trace.encode() not in content, trace
        texts = list(strings(exported.graph.model))
        assert [text for text in texts if any(mark in text for mark in ("/", "\\", ".py"))] == []

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
            left = fused_convolutions(instrumented, chosen, tmp_path)
            whole = fused_convolutions(plain, chosen, tmp_path)
            if exported.case.arrangement == "relu_before_addition":
                # No convolution ends the branch, so one of the shortcut takes the sum in; who wants to see what the
                # shortcut brought cannot have it so.
                changing = sum(1 for block in exported.graph.blocks if "downsample" in block.shortcut)
                assert 0 <= len(str(whole)) - len(str(left)) <= changing
                left, whole = ([fusion.rstrip("+") for fusion in fusions] for fusions in (left, whole))
            assert sorted(left) == sorted(whole)

    def test_statistics_equal_pytorchs(self, exported: Exported) -> None:
        pixels = exported.pixels(2)
        seen = observed(exported.classifier, pixels)
        actual = run(instrument(exported.graph.model, manifest(exported)), pixels)
        raw = {site: seen[site.name][1].double().numpy() for site in exported.graph.sites}
        expected = {
            layout.MEAN: [x.mean((2, 3)) for x in raw.values()],
            layout.MEAN_SQUARE: [(x**2).mean((2, 3)) for x in raw.values()],
            layout.MAXIMUM: [x.max((2, 3)) for x in raw.values()],
            layout.MINIMUM: [x.min((2, 3)) for site, x in raw.items() if site.signed],
        }
        for output, parts in expected.items():
            assert (output in actual) == bool(parts)
            if parts:
                assert_close(np.concatenate(parts, 1), actual[output], output)
        shares = {
            layout.ACTIVE: [(x > 0).mean((2, 3)) for x in raw.values()],
            layout.SATURATED: [saturated(site.saturation, x) for site, x in raw.items() if site.saturation is not None],
        }
        for output, parts in shares.items():
            assert (output in actual) == bool(parts)
            if parts:
                # A value that rounding moves across a bound changes its own channel's share.
                differing = np.abs(np.concatenate(parts, 1) - actual[output]) > 1e-5
                assert differing.mean() < 0.01, output


def test_every_arrangement_is_exported() -> None:
    assert {case.arrangement for case in CASES} == set(ARRANGEMENTS)
    assert {case.shortcut for case in CASES} == set(MERGES)
    assert {case.normaliser for case in CASES} == set(NORMALISERS)
    assert {case.activation for case in CASES if case.network == "resnet20"} == set(ENTRIES)
