"""The instrumented graph puts out what NumPy says about the raw activations, and leaves the network as it is."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from models.instrument import InstrumentationError, instrument
from models.manifest import ActivationSite, BlockEnd, ModelManifest, Saturation
from models.statistics import layout
from tests.models import graphs

TENSORS = ["act1", "act2", "act3"]


def test_activations_here_cover_every_kind() -> None:
    kinds = {
        (
            signed,
            region is not None,
            bool(region and region.below is not None),
            bool(region and region.above is not None),
        )
        for _, signed, region in graphs.ACTIVATIONS.values()
    }
    assert len(kinds) >= 8


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("activation", graphs.ACTIVATIONS)
class TestValues:
    def test_every_statistic_equals_numpy(self, activation: str, batch: int) -> None:
        model, manifest = graphs.graph(activation), graphs.manifest(activation)
        pixels = graphs.images(batch)
        actual = graphs.run(instrument(model, manifest), pixels)
        raw = graphs.tensors(model, TENSORS, pixels)
        expected = {
            layout.MEAN: [x.mean((2, 3)) for x in raw.values()],
            layout.MEAN_SQUARE: [(x**2).mean((2, 3)) for x in raw.values()],
            layout.ACTIVE: [(x > 0).mean((2, 3)) for x in raw.values()],
            layout.MAXIMUM: [x.max((2, 3)) for x in raw.values()],
        }
        _, signed, region = graphs.ACTIVATIONS[activation]
        if signed:
            expected[layout.MINIMUM] = [x.min((2, 3)) for x in raw.values()]
        if region is not None:
            below = -np.inf if region.below is None else np.float32(region.below)
            above = np.inf if region.above is None else np.float32(region.above)
            expected[layout.SATURATED] = [((x <= below) | (x >= above)).mean((2, 3)) for x in raw.values()]
        for output, parts in expected.items():
            np.testing.assert_allclose(actual[output], np.concatenate(parts, 1), rtol=1e-5, atol=1e-6, err_msg=output)
        change = raw["act3"] - raw["act1"]
        np.testing.assert_allclose(actual[layout.BRANCH_ENERGY], (change**2).mean((1, 2, 3))[:, None], rtol=1e-5)
        np.testing.assert_allclose(
            actual[layout.SHORTCUT_ENERGY], (raw["act1"] ** 2).mean((1, 2, 3))[:, None], rtol=1e-5
        )
        assert set(actual) == {"logits", *expected, *layout.BLOCK_OUTPUTS}

    def test_logits_are_those_of_the_plain_graph(self, activation: str, batch: int) -> None:
        model = graphs.graph(activation)
        pixels = graphs.images(batch)
        instrumented = graphs.run(instrument(model, graphs.manifest(activation)), pixels)
        np.testing.assert_allclose(instrumented["logits"], graphs.run(model, pixels)["logits"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", graphs.ACTIVATIONS)
class TestGraph:
    def test_the_network_inside_is_untouched(self, activation: str) -> None:
        model = graphs.graph(activation)
        instrumented = instrument(model, graphs.manifest(activation))
        inner = instrumented.graph
        assert list(inner.node[: len(model.graph.node)]) == list(model.graph.node)
        assert list(inner.initializer[: len(model.graph.initializer)]) == list(model.graph.initializer)
        assert list(inner.output[:1]) == list(model.graph.output)
        assert list(inner.input) == list(model.graph.input)
        assert list(instrumented.functions) == list(model.functions)
        assert list(instrumented.opset_import) == list(model.opset_import)

    def test_the_graph_given_is_not_changed(self, activation: str) -> None:
        model = graphs.graph(activation)
        before = model.SerializeToString(deterministic=True)
        instrument(model, graphs.manifest(activation))
        assert model.SerializeToString(deterministic=True) == before

    def test_checker_accepts_it(self, activation: str) -> None:
        onnx.checker.check_model(instrument(graphs.graph(activation), graphs.manifest(activation)), full_check=True)

    def test_declared_shapes_are_those_put_out(self, activation: str) -> None:
        manifest = graphs.manifest(activation)
        instrumented = instrument(graphs.graph(activation), manifest)
        actual = graphs.run(instrumented, graphs.images(3))
        for output in instrumented.graph.output:
            batch, columns = output.type.tensor_type.shape.dim
            assert batch.dim_param == "N"
            assert actual[output.name].shape == (3, columns.dim_value)
        assert {name: values.shape[1] for name, values in actual.items() if name != "logits"} == layout.output_widths(
            manifest
        )

    def test_a_graph_is_instrumented_alike_every_time(self, activation: str) -> None:
        first, again = (instrument(graphs.graph(activation), graphs.manifest(activation)) for _ in range(2))
        assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)


def fused_convolutions(model: onnx.ModelProto, level: onnxruntime.GraphOptimizationLevel, folder: Path) -> list[str]:
    """What ONNX Runtime folded into each convolution of the optimised graph: its activation, and '+' for a sum."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = []
    for node in onnx.load(folder / "optimised.onnx").graph.node:
        if node.op_type not in ("Conv", "FusedConv"):
            continue
        activation = next((entry.s.decode() for entry in node.attribute if entry.name == "activation"), "")
        found.append(activation + ("+" if len(node.input) > 3 else ""))
    return sorted(found)


@pytest.mark.parametrize("level", ["ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("activation", graphs.ACTIVATIONS)
def test_every_fusion_survives(activation: str, level: str, tmp_path: Path) -> None:
    model = graphs.graph(activation)
    instrumented = instrument(model, graphs.manifest(activation))
    chosen = getattr(onnxruntime.GraphOptimizationLevel, level)
    plain = fused_convolutions(model, chosen, tmp_path)
    assert len(plain) == 3
    assert fused_convolutions(instrumented, chosen, tmp_path) == plain
    if activation == "rectifier":
        # The sum before the third one is folded in only by the blocked layout of x86 processors.
        assert sum("Relu" in folded for folded in plain) >= 2


def test_logits_of_a_fused_network_are_bit_identical() -> None:
    model = graphs.graph("rectifier")
    pixels = graphs.images(7)
    instrumented = graphs.run(instrument(model, graphs.manifest("rectifier")), pixels)
    assert np.array_equal(instrumented["logits"], graphs.run(model, pixels)["logits"])


def test_sites_of_different_activations_share_the_outputs() -> None:
    """Only signed sites have a minimum, only sites that show it a saturated share; the columns stay in order."""
    kinds = ("rectifier", "two_sided", "not_told")
    sites = tuple(
        graphs.manifest(kind).sites[index].model_copy(update={"name": f"site{index}"})
        for index, kind in enumerate(kinds)
    )
    manifest = graphs.manifest("two_sided", sites=sites)
    model = graphs.graph("two_sided")
    pixels = graphs.images(2)
    actual = graphs.run(instrument(model, manifest), pixels)
    raw = list(graphs.tensors(model, TENSORS, pixels).values())
    np.testing.assert_allclose(
        actual[layout.MINIMUM], np.concatenate([raw[1].min((2, 3)), raw[2].min((2, 3))], 1), rtol=1e-6
    )
    bounds = np.float32([-0.95, 0.95])
    outside = ((raw[1] <= bounds[0]) | (raw[1] >= bounds[1])).mean((2, 3))
    np.testing.assert_allclose(actual[layout.SATURATED][:, graphs.WIDTH :], outside, atol=1e-6)
    assert layout.site_columns(layout.MINIMUM, manifest) == {"site1": slice(0, 16), "site2": slice(16, 32)}
    assert layout.site_columns(layout.SATURATED, manifest) == {"site0": slice(0, 16), "site1": slice(16, 32)}
    assert layout.site_columns(layout.MEAN, manifest)["site2"] == slice(32, 48)


def test_tiny_values_are_active_and_zeros_are_not() -> None:
    """The smallest normal float32 counts as active; ±0 and negative values do not."""
    tiny = float(np.finfo(np.float32).tiny)
    for value, share in [(tiny, 1.0), (-tiny, 0.0), (0.0, 0.0), (-0.0, 0.0), (3e38, 1.0), (-3e38, 0.0)]:
        model = onnx.parser.parse_model("""
            <ir_version: 10, opset_import: ["" : 20]>
            network (float[N, 1, 2, 2] images) => (float[N, 1, 2, 2] logits) { logits = Identity(images) }
        """)
        site = ActivationSite(
            name="act", activation="identity", tensor="images", channels=1, signed=True, saturation=Saturation()
        )
        manifest = graphs.manifest("never", sites=(site,), blocks=())
        actual = graphs.run(instrument(model, manifest), np.full((1, 1, 2, 2), value, np.float32))
        assert actual[layout.ACTIVE].item() == share, value


def test_a_network_without_blocks_has_no_block_outputs() -> None:
    manifest = graphs.manifest("rectifier", blocks=())
    actual = graphs.run(instrument(graphs.graph("rectifier"), manifest), graphs.images(2))
    assert not set(actual) & set(layout.BLOCK_OUTPUTS)


def wrong(**changes: object) -> ModelManifest:
    return graphs.manifest("rectifier", **changes)


@pytest.mark.parametrize(
    ("manifest", "names"),
    [
        (wrong(sites=(wrong().sites[0].model_copy(update={"tensor": "act9"}),)), "act9"),
        (wrong(blocks=(BlockEnd(name="layer1.0", output="nowhere", shortcut="act1"),)), "nowhere"),
        (wrong(blocks=(BlockEnd(name="layer1.0", output="act3", shortcut="gone"),)), "gone"),
        (
            wrong(
                sites=(wrong().sites[0].model_copy(update={"tensor": "zzz"}),),
                blocks=(BlockEnd(name="layer1.0", output="act3", shortcut="aaa"),),
            ),
            "aaa, zzz",
        ),
    ],
)
def test_a_manifest_of_another_graph_is_refused(manifest: ModelManifest, names: str) -> None:
    with pytest.raises(InstrumentationError, match=f"tensors that the graph does not have: {names}$"):
        instrument(graphs.graph("rectifier"), manifest)
