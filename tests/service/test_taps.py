"""The tapped session and the compiled pass answer like the instrumented graph, and leave the network as it is."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from models.instrument import instrument
from models.manifest import ActivationSite, BlockEnd, ModelManifest, Saturation, TensorSpec
from models.statistics import layout
from service.runtime import compiled, taps
from service.runtime.compiled import CompiledStatistics
from service.runtime.provider import CPU
from service.runtime.sessions import Sessions
from service.runtime.taps import TappedSession, block_size, mark, put_out
from tests.models import graphs


def names(manifest: ModelManifest) -> list[str]:
    return ["logits", *layout.output_widths(manifest)]


def compare(model: onnx.ModelProto, manifest: ModelManifest, pixels: np.ndarray, threads: int = 1) -> None:
    """The compiled pass against the reductions in the graph, both of float32."""
    statistics = CompiledStatistics(Sessions(CPU, threads), model, manifest)
    actual = dict(zip(names(manifest), statistics.run(names(manifest), pixels), strict=True))
    expected = graphs.run(instrument(model, manifest), pixels)
    assert set(actual) == set(expected)
    for name, values in expected.items():
        assert actual[name].shape == values.shape
        assert actual[name].dtype == np.float32
        np.testing.assert_allclose(actual[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("activation", graphs.ACTIVATIONS)
def test_equals_the_reductions_in_the_graph(activation: str, batch: int) -> None:
    compare(graphs.graph(activation), graphs.manifest(activation), graphs.images(batch))


# Channels, positions a side: whole blocks, part of one, one, and maps smaller than a vector.
WIDTHS = [(1, 8), (3, 8), (8, 5), (12, 3), (16, 8), (20, 7), (24, 1), (40, 2)]

NARROW = """
<ir_version: 10, opset_import: ["" : 20]>
network (float[N, 3, {size}, {size}] images) => (float[N, 2] logits) {{
    stem = Conv<pads = [1, 1, 1, 1]>(images, w0, b0)
    act1 = Sigmoid(stem)
    branch = Conv<pads = [1, 1, 1, 1]>(act1, w1, b1)
    total = Add(branch, act1)
    act2 = Relu(total)
    pooled = GlobalAveragePool(act2)
    flat = Flatten(pooled)
    logits = Gemm<transB = 1>(flat, w2, b2)
}}
"""


def narrow(channels: int, size: int) -> tuple[onnx.ModelProto, ModelManifest]:
    """A network of any number of channels: σ(0) ≠ 0, so that padding would be seen if it were counted."""
    model = parser.parse_model(NARROW.format(size=size))
    normal = np.random.default_rng(0).standard_normal
    weights = {
        "w0": normal((channels, 3, 3, 3)) / 4,
        "b0": normal(channels),
        "w1": normal((channels, channels, 3, 3)) / 4,
        "b1": normal(channels),
        "w2": normal((2, channels)),
        "b2": normal(2),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
    )
    onnx.checker.check_model(model, full_check=True)
    sigmoid = ActivationSite(
        name="act1", activation="sigmoid", tensor="act1", channels=channels, signed=False,
        saturation=Saturation(below=0.1, above=0.9),
    )  # fmt: skip
    relu = ActivationSite(
        name="act2", activation="relu", tensor="act2", channels=channels, signed=False, saturation=Saturation(below=0.0)
    )
    manifest = graphs.manifest(
        "rectifier",
        sites=(sigmoid, relu),
        blocks=(
            BlockEnd(name="raw", output="total", shortcut="act1"),
            BlockEnd(name="whole", output="act2", shortcut="act1"),
        ),
        inputs=(TensorSpec(name="images", datatype="FP32", shape=(-1, 3, size, size)),),
    )
    return model, manifest


@pytest.mark.parametrize(("channels", "size"), WIDTHS)
def test_any_number_of_channels_and_positions(channels: int, size: int) -> None:
    model, manifest = narrow(channels, size)
    pixels = np.random.default_rng(1).normal(0, 1, (3, 3, size, size)).astype(np.float32)
    compare(model, manifest, pixels)


def sizes(channels: int, size: int) -> np.ndarray:
    return np.random.default_rng(channels).normal(0, 1, (2, 3, size, size)).astype(np.float32)


def test_two_sites_may_share_a_tensor_and_a_block_may_end_where_another_does() -> None:
    model, manifest = narrow(16, 8)
    first, second = manifest.sites
    sites = (first, second, second.model_copy(update={"name": "act2 again"}))
    blocks = (*manifest.blocks, BlockEnd(name="again", output="act2", shortcut="total"))
    compare(model, manifest.model_copy(update={"sites": sites, "blocks": blocks}), sizes(16, 8))


def test_the_input_and_the_logits_can_be_sites() -> None:
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        network (float[N, 3, 8, 8] images) => (float[N, 3, 8, 8] logits) { logits = Tanh(images) }
    """)
    sites = tuple(
        ActivationSite(name=name, activation="tanh", tensor=name, channels=3, signed=True, saturation=Saturation())
        for name in ("images", "logits")
    )
    compare(model, graphs.manifest("never", sites=sites, blocks=()), sizes(3, 8))


def test_a_tensor_that_nothing_reads_is_tapped() -> None:
    model, manifest = narrow(16, 8)
    model.graph.node.append(onnx.helper.make_node("Tanh", ["act1"], ["aside"]))
    site = manifest.sites[0].model_copy(update={"name": "aside", "tensor": "aside"})
    compare(model, manifest.model_copy(update={"sites": (*manifest.sites, site)}), sizes(16, 8))


def test_a_batch_beyond_the_buffer_is_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LARGEST_RUN", 40_000)
    model, manifest = graphs.graph("two_sided"), graphs.manifest("two_sided")
    for batch in (1, 3, 4, 11):
        compare(model, manifest, graphs.images(batch))


@pytest.mark.parametrize("batch", [1, 5])
def test_several_threads_of_the_runtime_share_the_pass(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(compiled, "NUMBERS_A_THREAD", 500)
    compare(graphs.graph("two_sided"), graphs.manifest("two_sided"), graphs.images(batch), threads=3)


def test_callers_at_once_get_their_own_answers() -> None:
    model, manifest = graphs.graph("two_sided"), graphs.manifest("two_sided")
    statistics = CompiledStatistics(Sessions(CPU, threads=1), model, manifest)
    batches = [graphs.images(1 + seed % 3, seed) for seed in range(60)]
    expected = [graphs.run(instrument(model, manifest), pixels) for pixels in batches]
    with ThreadPoolExecutor(6) as pool:
        actual = list(pool.map(lambda pixels: statistics.run(names(manifest), pixels), batches))
    for values, reference in zip(actual, expected, strict=True):
        for name, value in zip(names(manifest), values, strict=True):
            np.testing.assert_allclose(value, reference[name], rtol=1e-5, atol=1e-6)


def test_answers_are_not_overwritten_by_the_next_batch() -> None:
    model, manifest = graphs.graph("two_sided"), graphs.manifest("two_sided")
    statistics = CompiledStatistics(Sessions(CPU, threads=1), model, manifest)
    first = statistics.run(names(manifest), graphs.images(2, seed=1))
    before = [values.copy() for values in first]
    statistics.run(names(manifest), graphs.images(2, seed=2))
    assert all(np.array_equal(values, copy) for values, copy in zip(first, before, strict=True))


def test_buffers_are_used_again_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    session = TappedSession(Sessions(CPU, threads=1), graphs.graph("rectifier"), graphs.manifest("rectifier"))
    first = session.run(graphs.images(2))
    second = session.run(graphs.images(2))
    assert first is not second
    session.hand_back(first)
    assert session.run(graphs.images(1)) is not first
    assert session.run(graphs.images(2)) is first
    monkeypatch.setattr(taps, "LARGEST_IDLE", first.values.nbytes)
    session.hand_back(first)
    session.hand_back(second)
    assert session.run(graphs.images(2)) is second
    assert session.run(graphs.images(2)) is not first


def test_a_failed_run_leaves_no_buffer_behind() -> None:
    manifest = graphs.manifest("rectifier")
    statistics = CompiledStatistics(Sessions(CPU, threads=1), graphs.graph("rectifier"), manifest)
    with pytest.raises(Exception, match="invalid dimensions"):
        statistics.run(names(manifest), np.zeros((1, 3, 9, 9), np.float32))
    assert np.isfinite(statistics.run(["logits"], graphs.images(1))[0]).all()


def poisoned(value: float) -> np.ndarray:
    pixels = graphs.images(3)
    pixels[1, 0, 4, 4] = value
    return pixels


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_poisoned_image_is_not_finite_where_the_graph_says_so_and_its_neighbours_are(value: float) -> None:
    model, manifest = graphs.graph("never"), graphs.manifest("never")
    statistics = CompiledStatistics(Sessions(CPU, threads=1), model, manifest)
    (actual,) = statistics.run([layout.MEAN_SQUARE], poisoned(value))
    expected = graphs.run(instrument(model, manifest), poisoned(value))[layout.MEAN_SQUARE]
    assert np.array_equal(np.isfinite(actual), np.isfinite(expected))
    assert np.isfinite(actual[[0, 2]]).all()
    assert not np.isfinite(actual[1]).all()


def optimised(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    return onnx.load(folder / "optimised.onnx")


def convolutions(model: onnx.ModelProto) -> list[str]:
    """What is folded into each convolution: its activation, and '+' for a sum."""
    found = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "FusedConv"):
            activation = next((entry.s.decode() for entry in node.attribute if entry.name == "activation"), "")
            found.append(activation + ("+" if len(node.input) > 3 else ""))
    return sorted(found)


@pytest.mark.parametrize("activation", graphs.ACTIVATIONS)
def test_every_fusion_survives(activation: str, tmp_path: Path) -> None:
    model, manifest = graphs.graph(activation), graphs.manifest(activation)
    tensors = ["act1", "act2", "act3"]
    tapped = optimised(mark(model, tensors), tmp_path)
    sources = put_out(tapped, tensors, manifest)
    plain = optimised(model, tmp_path)
    assert convolutions(tapped) == convolutions(plain)
    assert len(convolutions(tapped)) == 3
    # Nothing is computed besides; the shortcut is reordered where the block's end is not blocked.
    before, after = (Counter(node.op_type for node in model.graph.node) for model in (plain, tapped))
    assert after - before == (
        Counter({"ReorderOutput": 1}) if activation == "never" and sources["act1"].name != "act1" else Counter()
    )
    assert not before - after
    if activation == "rectifier" and any(node.domain for node in plain.graph.node):  # x86 has the blocked layout
        assert [source.blocked_channels for source in sources.values()] == [graphs.WIDTH] * 3
        assert sum("Relu" in folded for folded in convolutions(tapped)) == 3


def test_the_block_size_is_one_of_those_that_exist() -> None:
    assert block_size() in (8, 16)


def test_without_a_temporary_directory_the_graph_cannot_be_rewired(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr("tempfile.TemporaryDirectory", nowhere)
    with pytest.raises(OSError, match="read-only"):
        TappedSession(Sessions(CPU, threads=1), graphs.graph("rectifier"), graphs.manifest("rectifier"))
