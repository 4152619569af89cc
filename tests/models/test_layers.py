"""What is answered about one image equals NumPy's statistics of its raw activations, and can always be sent as JSON."""

import json
import math

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from models.instrument import instrument
from models.manifest import ModelManifest
from models.statistics import layout
from models.statistics.layers import ImageStatistics, LayerStatistics, StatisticsReader
from tests.models import graphs

TENSORS = ["act1", "act2", "act3"]


def hoyer(means: list[float]) -> float:
    """Hoyer 2004, section 3.1, number by number."""
    count = len(means)
    absolute = sum(abs(value) for value in means)
    length = math.sqrt(sum(value * value for value in means))
    return (math.sqrt(count) - absolute / length) / (math.sqrt(count) - 1)


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("activation", graphs.ACTIVATIONS)
def test_image_statistics_equal_numpy(activation: str, batch: int) -> None:
    model, manifest = graphs.graph(activation), graphs.manifest(activation)
    pixels = graphs.images(batch)
    outputs = graphs.run(instrument(model, manifest), pixels)
    raw = graphs.tensors(model, TENSORS, pixels)
    _, signed, region = graphs.ACTIVATIONS[activation]
    for row in range(batch):
        statistics = StatisticsReader(manifest).image(outputs, row, channels=True)
        assert [layer.layer for layer in statistics.layers] == [f"layer1.{tensor}" for tensor in TENSORS]
        for layer, tensor in zip(statistics.layers, TENSORS, strict=True):
            x = raw[tensor][row]
            assert layer.activation == activation
            assert layer.finite
            assert layer.mean == pytest.approx(x.mean(), rel=1e-5, abs=1e-6)
            assert layer.rms == pytest.approx(np.sqrt((x**2).mean()), rel=1e-5)
            assert layer.active_fraction == pytest.approx((x > 0).mean(), abs=1e-6)
            assert layer.maximum == pytest.approx(x.max(), rel=1e-5)
            assert layer.sparsity == pytest.approx(hoyer(x.mean((1, 2)).tolist()), rel=1e-4)
            shift = (x.mean((1, 2)) ** 2).sum() / (x**2).mean((1, 2)).sum()
            assert layer.mean_shift == pytest.approx(shift, rel=1e-4)
            # The manifest is one of those that do not say whether zero is dead.
            assert layer.silent_channels is None
            assert layer.channels is not None
            assert layer.channels.silent is None
            assert layer.channels.mean == pytest.approx(x.mean((1, 2)).tolist(), rel=1e-5, abs=1e-6)
            assert layer.channels.rms == pytest.approx(np.sqrt((x**2).mean((1, 2))).tolist(), rel=1e-5, abs=1e-6)
            assert layer.channels.active_fraction == pytest.approx((x > 0).mean((1, 2)).tolist(), abs=1e-6)
            assert layer.channels.maximum == pytest.approx(x.max((1, 2)).tolist(), rel=1e-5, abs=1e-6)
            if signed:
                assert layer.minimum == pytest.approx(x.min(), rel=1e-5)
                assert layer.channels.minimum == pytest.approx(x.min((1, 2)).tolist(), rel=1e-5, abs=1e-6)
            else:
                assert layer.minimum is None
                assert layer.channels.minimum is None
            if region is None:
                assert layer.saturated_fraction is None
                assert layer.channels.saturated_fraction is None
            else:
                below = -np.inf if region.below is None else np.float32(region.below)
                above = np.inf if region.above is None else np.float32(region.above)
                inside = (x <= below) | (x >= above)
                assert layer.saturated_fraction == pytest.approx(inside.mean(), abs=1e-6)
                assert layer.channels.saturated_fraction == pytest.approx(inside.mean((1, 2)).tolist(), abs=1e-6)
        (block,) = statistics.blocks
        change = raw["act3"][row] - raw["act1"][row]
        share = np.linalg.norm(change) / np.linalg.norm(raw["act1"][row])
        assert block.block == "layer1.0"
        assert block.residual_share == pytest.approx(share, rel=1e-5)


def test_channels_only_when_asked() -> None:
    manifest = graphs.manifest("two_sided")
    outputs = graphs.run(instrument(graphs.graph("two_sided"), manifest), graphs.images(1))
    reader = StatisticsReader(manifest)
    assert all(layer.channels is None for layer in reader.image(outputs, 0, channels=False).layers)
    assert all(layer.channels is not None for layer in reader.image(outputs, 0, channels=True).layers)


def test_an_image_is_described_alike_in_any_company() -> None:
    manifest = graphs.manifest("never")
    instrumented = instrument(graphs.graph("never"), manifest)
    pixels = graphs.images(7)
    together = graphs.run(instrumented, pixels)
    for row in range(7):
        alone = StatisticsReader(manifest).image(graphs.run(instrumented, pixels[row : row + 1]), 0, channels=False)
        beside = StatisticsReader(manifest).image(together, row, channels=False)
        for one, other in zip(alone.layers, beside.layers, strict=True):
            assert one.rms == pytest.approx(other.rms, rel=1e-6)
            assert one.sparsity == pytest.approx(other.sparsity, rel=1e-4)


def mixed_manifest() -> ModelManifest:
    """Three sites of 1, 2 and 3 channels; only the second is signed, only the third shows saturation."""
    kinds = ("unsigned_not_told", "not_told", "rectifier")
    sites = tuple(
        graphs.manifest(kind).sites[index].model_copy(update={"channels": index + 1})
        for index, kind in enumerate(kinds)
    )
    return graphs.manifest("rectifier", sites=sites)


def mixed_outputs(images: int) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(4)
    widths = layout.output_widths(mixed_manifest())
    return {name: random.uniform(0.1, 1, (images, width)).astype(np.float32) for name, width in widths.items()}


def test_columns_of_a_mixed_network() -> None:
    """Every layer reduces its own columns and no other's, by loops."""
    outputs = mixed_outputs(4)
    layers = StatisticsReader(mixed_manifest()).layers(outputs)
    spans = {0: (0, 1), 1: (1, 3), 2: (3, 6)}
    for image in range(4):
        for index, (start, stop) in spans.items():
            columns = {
                name: outputs[name][image, start:stop].astype(np.float64)
                for name in (layout.MEAN, layout.MEAN_SQUARE, layout.ACTIVE, layout.MAXIMUM)
            }
            count = stop - start
            assert layers["mean"][image, index] == pytest.approx(sum(columns[layout.MEAN]) / count)
            assert layers["rms"][image, index] == pytest.approx(math.sqrt(sum(columns[layout.MEAN_SQUARE]) / count))
            assert layers["active_fraction"][image, index] == pytest.approx(sum(columns[layout.ACTIVE]) / count)
            assert layers["maximum"][image, index] == max(columns[layout.MAXIMUM])
            if count > 1:
                assert layers["sparsity"][image, index] == pytest.approx(hoyer(columns[layout.MEAN].tolist()))
            shift = sum(value**2 for value in columns[layout.MEAN]) / sum(columns[layout.MEAN_SQUARE])
            assert layers["mean_shift"][image, index] == pytest.approx(shift)
        assert layers["minimum"][image, 1] == min(outputs[layout.MINIMUM][image])
        assert layers["saturated_fraction"][image, 2] == pytest.approx(outputs[layout.SATURATED][image].mean())
    assert np.isnan(layers["minimum"][:, [0, 2]]).all()
    assert np.isnan(layers["saturated_fraction"][:, [0, 1]]).all()


def test_a_single_channel_has_no_sparsity() -> None:
    answer = StatisticsReader(mixed_manifest()).image(mixed_outputs(1), 0, channels=False)
    assert answer.layers[0].sparsity is None
    assert answer.layers[1].sparsity is not None


@pytest.mark.parametrize(("means", "sparsity"), [([1, 1, 1, 1], 0.0), ([0, 0, -3, 0], 1.0), ([0, 0, 0, 0], None)])
def test_sparsity_at_its_ends(means: list[float], sparsity: float | None) -> None:
    site = graphs.manifest("not_told").sites[0].model_copy(update={"channels": 4})
    manifest = graphs.manifest("not_told", sites=(site,), blocks=())
    outputs = {name: np.ones((1, 4), np.float32) for name in layout.output_widths(manifest)}
    outputs[layout.MEAN] = np.float32([means])
    answered = StatisticsReader(manifest).image(outputs, 0, channels=False).layers[0].sparsity
    assert answered == (None if sparsity is None else pytest.approx(sparsity, abs=1e-7))


def strict_json(statistics: ImageStatistics) -> dict[str, list[dict[str, object]]]:
    """As a strict reader takes it: NaN and Infinity are not JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.dumps(statistics.model_dump(), allow_nan=False)
    return json.loads(statistics.model_dump_json(), parse_constant=refuse)


def measured(layer: LayerStatistics) -> set[object]:
    return set(layer.model_dump(exclude={"layer", "activation", "finite", "channels"}).values())


@pytest.mark.parametrize("activation", graphs.ACTIVATIONS)
def test_nothing_is_measured_of_nan(activation: str) -> None:
    manifest = graphs.manifest(activation, zero_is_dead=True)
    pixels = np.full_like(graphs.images(1), np.nan)
    outputs = graphs.run(instrument(graphs.graph(activation), manifest), pixels)
    for layer in StatisticsReader(manifest).image(outputs, 0, channels=True).layers:
        assert not layer.finite
        assert measured(layer) == {None}
        assert layer.channels is not None
        for values in layer.channels.model_dump().values():
            assert values in (None, [None] * graphs.WIDTH)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_one_channel_that_is_not_finite(value: float) -> None:
    """It has no values, nor has its layer as a whole; the other channels of the layer and the other layers have."""
    manifest, outputs = mixed_manifest(), mixed_outputs(1)
    outputs[layout.MEAN_SQUARE][0, 4] = value
    first, second, third = StatisticsReader(manifest).image(outputs, 0, channels=True).layers
    assert first.finite
    assert second.finite
    assert second.channels is not None
    assert None not in second.channels.mean
    assert not third.finite
    assert measured(third) == {None}
    assert third.channels is not None
    for values in third.channels.model_dump(exclude_none=True).values():
        assert [number is None for number in values] == [False, True, False]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("activation", ["rectifier", "never", "not_told", "from_below"])
def test_an_activation_that_is_not_finite(activation: str, value: float) -> None:
    """Image 1 carries a bad value into the network; it says so itself, and its neighbours do not notice."""
    model, manifest = graphs.graph(activation), graphs.manifest(activation)
    clean = graphs.images(3)
    dirty = clean.copy()
    dirty[1, 0, 4, 4] = value
    instrumented = instrument(model, manifest)
    outputs = graphs.run(instrumented, dirty)
    raw = graphs.tensors(model, TENSORS, dirty)
    statistics = StatisticsReader(manifest).image(outputs, 1, channels=True)
    for layer, tensor in zip(statistics.layers, TENSORS, strict=True):
        assert layer.finite == bool(np.isfinite(raw[tensor][1]).all())
        if not layer.finite:
            assert measured(layer) == {None}
    assert not statistics.layers[0].finite
    read = strict_json(statistics)
    assert read["layers"][0]["finite"] is False
    assert read["layers"][0]["rms"] is None
    undisturbed = graphs.run(instrumented, clean)
    for row in (0, 2):
        assert StatisticsReader(manifest).image(outputs, row, channels=True) == StatisticsReader(manifest).image(
            undisturbed, row, channels=True
        )


SILENT = -50.0
"""Bias of a channel that a rectifier and a hard swish both cut to zeros."""


def with_faint_channels(activation: str, biases: list[float]) -> onnx.ModelProto:
    """The graph with the first channels of its stem replaced."""
    model = graphs.graph(activation)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weight, bias = (numpy_helper.to_array(tensors[name]).copy() for name in ("w0", "b0"))
    weight[: len(biases)] *= 0.05
    bias[: len(biases)] = biases
    for name, value in (("w0", weight), ("b0", bias)):
        tensors[name].CopyFrom(numpy_helper.from_array(value, name))
    return model


@pytest.mark.parametrize(("activation", "stem"), [("rectifier", [True] * 4), ("gated", [True, False, False, True])])
def test_silent_channels_are_those_of_nothing_but_zeros(activation: str, stem: list[bool]) -> None:
    """A hard swish is negative at −1; around −3 it is zero in places, and negative in others."""
    model = with_faint_channels(activation, [SILENT, -1.0, -3.0, SILENT])
    manifest = graphs.manifest(activation, zero_is_dead=True)
    pixels = graphs.images(3)
    outputs = graphs.run(instrument(model, manifest), pixels)
    raw = graphs.tensors(model, TENSORS, pixels)
    assert (raw["act1"][0] == 0).all((1, 2))[:4].tolist() == stem
    assert raw["act1"][0, 2].max() == 0
    reader = StatisticsReader(manifest)
    for row in range(3):
        for layer, tensor in zip(reader.image(outputs, row, channels=True).layers, TENSORS, strict=True):
            silent = (raw[tensor][row] == 0).all((1, 2))
            assert layer.silent_channels == silent.sum()
            assert layer.channels is not None
            assert layer.channels.silent == silent.tolist()


@pytest.mark.parametrize("zero_is_dead", [False, None])
def test_silence_is_not_counted_where_it_is_not_known_to_be_death(zero_is_dead: bool | None) -> None:
    manifest = graphs.manifest("rectifier", zero_is_dead=zero_is_dead)
    outputs = graphs.run(instrument(with_faint_channels("rectifier", [SILENT]), manifest), graphs.images(1))
    for layer in StatisticsReader(manifest).image(outputs, 0, channels=True).layers:
        assert layer.silent_channels is None
        assert layer.channels is not None
        assert layer.channels.silent is None


def test_silence_is_counted_where_it_is_known() -> None:
    """One layer says that zero is dead, its neighbours do not: columns must not be mixed up."""
    sites = graphs.manifest("rectifier").sites
    known = sites[1].model_copy(update={"zero_is_dead": True})
    manifest = graphs.manifest("rectifier", sites=(sites[0], known, sites[2]))
    outputs = graphs.run(instrument(graphs.graph("rectifier"), manifest), graphs.images(1))
    outputs[layout.MAXIMUM][0, graphs.WIDTH - 1 : 2 * graphs.WIDTH + 1] = 0
    outputs[layout.MEAN][0, graphs.WIDTH - 1 : 2 * graphs.WIDTH + 1] = 0
    layers = StatisticsReader(manifest).image(outputs, 0, channels=False).layers
    assert [layer.silent_channels for layer in layers] == [None, graphs.WIDTH, None]


def test_a_layer_of_zeros_has_no_mean_shift() -> None:
    manifest = graphs.manifest("rectifier", zero_is_dead=True)
    outputs = graphs.run(instrument(graphs.graph("rectifier"), manifest), graphs.images(1))
    zeros = {name: np.zeros_like(values) for name, values in outputs.items()}
    for layer in StatisticsReader(manifest).image(zeros, 0, channels=False).layers:
        assert layer.finite
        assert layer.mean_shift is None
        assert layer.silent_channels == graphs.WIDTH


def test_mean_shift_at_its_ends() -> None:
    """0 for centred channels, 1 for constant ones, and for a Gaussian behind ReLU what the manifest expects."""
    random = np.random.default_rng(0)
    normal = random.standard_normal((8, 1 << 14))
    site = (
        graphs.manifest("never")
        .sites[0]
        .model_copy(
            update={
                "normal_mean": 1 / math.sqrt(2 * math.pi),
                "normal_variance": 1 / 2 - 1 / (2 * math.pi),
                "channels": 8,
            }
        )
    )
    assert site.expected_mean_shift == pytest.approx(1 / math.pi, rel=1e-12)
    manifest = graphs.manifest("never", sites=(site,), blocks=())
    cases = {0.0: normal - normal.mean(1, keepdims=True), 1.0: np.full((8, 4), 3.0), 1 / math.pi: normal.clip(min=0)}
    for expected, x in cases.items():
        outputs = {name: np.ones((1, 8), np.float32) for name in layout.output_widths(manifest)}
        outputs[layout.MEAN] = x.mean(1, dtype=np.float64)[None].astype(np.float32)
        outputs[layout.MEAN_SQUARE] = (x**2).mean(1)[None].astype(np.float32)
        (layer,) = StatisticsReader(manifest).image(outputs, 0, channels=False).layers
        assert layer.mean_shift == pytest.approx(expected, abs=0.01)


def test_a_dead_shortcut_has_no_residual_share() -> None:
    manifest = graphs.manifest("rectifier")
    outputs = graphs.run(instrument(graphs.graph("rectifier"), manifest), graphs.images(1))
    outputs[layout.SHORTCUT_ENERGY][:] = 0
    statistics = StatisticsReader(manifest).image(outputs, 0, channels=False)
    assert statistics.blocks[0].residual_share is None
    assert strict_json(statistics)["blocks"][0]["residual_share"] is None


def test_a_network_without_blocks() -> None:
    manifest = graphs.manifest("rectifier", blocks=())
    outputs = graphs.run(instrument(graphs.graph("rectifier"), manifest), graphs.images(2))
    assert StatisticsReader(manifest).image(outputs, 1, channels=False).blocks == []
