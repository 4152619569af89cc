"""What is answered about one image equals NumPy's statistics of its raw activations, and can always be sent as JSON."""

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from models.instrument import instrument
from models.manifest import ModelManifest
from models.statistics import layout
from models.statistics.layers import ImageStatistics, StatisticsReader
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
            assert layer.channels is not None
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
            assert layer.rms is None
    assert not statistics.layers[0].finite
    read = strict_json(statistics)
    assert read["layers"][0]["finite"] is False
    assert read["layers"][0]["rms"] is None
    undisturbed = graphs.run(instrumented, clean)
    for row in (0, 2):
        assert StatisticsReader(manifest).image(outputs, row, channels=True) == StatisticsReader(manifest).image(
            undisturbed, row, channels=True
        )


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
