"""The baseline equals one computation over all raw activations in float64, however the images were batched."""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.instrument import instrument
from models.repository import Entry, ModelRepository
from models.shelf import SHIPPED_MODELS
from models.statistics import layout
from models.statistics.baseline import SAMPLED_IMAGES, Baseline
from tests.models import graphs

TENSORS = ["act1", "act2", "act3"]
IMAGES = 37


def batches(activation: str, pixels: NDArray[np.float32], size: int) -> Iterator[graphs.Outputs]:
    instrumented = instrument(graphs.graph(activation), graphs.manifest(activation))
    for start in range(0, len(pixels), size):
        yield graphs.run(instrumented, pixels[start : start + size])


def baseline(activation: str, size: int = 16) -> Baseline:
    return Baseline.of(batches(activation, graphs.images(IMAGES), size), graphs.manifest(activation))


def raw_statistics(activation: str) -> dict[str, NDArray[np.float64]]:
    """Every statistic as images × columns, from the raw activations of all images at once."""
    raw = graphs.tensors(graphs.graph(activation), TENSORS, graphs.images(IMAGES))
    _, signed, region = graphs.ACTIVATIONS[activation]
    definitions = {
        layout.MEAN: lambda x: x.mean((2, 3)),
        layout.MEAN_SQUARE: lambda x: (x**2).mean((2, 3)),
        layout.ACTIVE: lambda x: (x > 0).mean((2, 3)),
        layout.MAXIMUM: lambda x: x.max((2, 3)),
    }
    if signed:
        definitions[layout.MINIMUM] = lambda x: x.min((2, 3))
    if region is not None:
        below = -np.inf if region.below is None else np.float32(region.below)
        above = np.inf if region.above is None else np.float32(region.above)
        definitions[layout.SATURATED] = lambda x: ((x <= below) | (x >= above)).mean((2, 3))
    values = {name: np.concatenate([define(x) for x in raw.values()], 1) for name, define in definitions.items()}
    values[layout.BRANCH_ENERGY] = ((raw["act3"] - raw["act1"]) ** 2).mean((1, 2, 3))[:, None]
    values[layout.SHORTCUT_ENERGY] = (raw["act1"] ** 2).mean((1, 2, 3))[:, None]
    return values


@pytest.mark.parametrize("size", [1, 16, IMAGES])
@pytest.mark.parametrize("activation", graphs.ACTIVATIONS)
def test_equals_one_computation_over_all_images(activation: str, size: int) -> None:
    actual = baseline(activation, size)
    expected = raw_statistics(activation)
    assert actual.images == IMAGES
    assert set(actual.moments) == set(expected)
    for output, values in expected.items():
        moments = actual.moments[output]
        assert moments.count == IMAGES
        np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-5, atol=1e-6, err_msg=output)
        np.testing.assert_allclose(moments.variance, values.var(0, ddof=1), rtol=1e-4, atol=1e-7, err_msg=output)
    assert actual.fired.tolist() == (expected[layout.ACTIVE] > 0).sum(0).tolist()
    logits = graphs.run(graphs.graph(activation), graphs.images(IMAGES))["logits"]
    assert actual.predicted.tolist() == [int((logits.argmax(1) == label).sum()) for label in range(graphs.CLASSES)]


@pytest.mark.parametrize("activation", ["rectifier", "two_sided", "not_told"])
def test_samples_are_the_layer_values_of_the_images(activation: str) -> None:
    samples = baseline(activation).samples
    values = raw_statistics(activation)
    by_layer = {
        name: columns.reshape(IMAGES, -1, graphs.WIDTH) for name, columns in values.items() if "energy" not in name
    }
    expected = {
        "mean": by_layer[layout.MEAN].mean(2),
        "rms": np.sqrt(by_layer[layout.MEAN_SQUARE].mean(2)),
        "active_fraction": by_layer[layout.ACTIVE].mean(2),
        "maximum": by_layer[layout.MAXIMUM].max(2),
        "residual_share": np.sqrt(values[layout.BRANCH_ENERGY] / values[layout.SHORTCUT_ENERGY]),
    }
    nothing = np.full((IMAGES, 3), np.nan)
    squares = (by_layer[layout.MEAN] ** 2).sum(2)
    expected["mean_shift"] = squares / by_layer[layout.MEAN_SQUARE].sum(2)
    # The manifest is one of those that do not say whether zero is dead.
    expected["silent_channels"] = nothing
    expected["minimum"] = by_layer[layout.MINIMUM].min(2) if layout.MINIMUM in by_layer else nothing
    expected["saturated_fraction"] = by_layer[layout.SATURATED].mean(2) if layout.SATURATED in by_layer else nothing
    assert set(samples) == {*expected, "sparsity"}
    for name, table in expected.items():
        assert samples[name].dtype == np.float32
        np.testing.assert_allclose(samples[name], table, rtol=1e-4, atol=1e-6, err_msg=name)


def test_samples_count_silent_channels_where_that_means_death() -> None:
    manifest = graphs.manifest("rectifier", zero_is_dead=True)
    samples = Baseline.of(batches("rectifier", graphs.images(IMAGES), 16), manifest).samples
    raw = graphs.tensors(graphs.graph("rectifier"), TENSORS, graphs.images(IMAGES))
    silent = np.stack([(raw[tensor] == 0).all((2, 3)).sum(1) for tensor in TENSORS], 1)
    assert silent.any()
    assert samples["silent_channels"].tolist() == silent.tolist()


def test_samples_of_many_images_are_spread_evenly() -> None:
    manifest = graphs.manifest("rectifier")
    widths = layout.output_widths(manifest)
    count = 3 * SAMPLED_IMAGES

    def numbered() -> Iterator[graphs.Outputs]:
        for start in range(0, count, 700):
            numbers = np.arange(start, min(start + 700, count), dtype=np.float32)[:, None]
            yield {name: np.broadcast_to(numbers, (len(numbers), width)) for name, width in widths.items()} | {
                "logits": np.zeros((len(numbers), graphs.CLASSES), np.float32)
            }

    kept = Baseline.of(numbered(), manifest).samples["mean"]
    assert kept.shape == (SAMPLED_IMAGES, 3)
    steps = np.diff(kept[:, 0])
    assert kept[0, 0] == 0
    assert kept[-1, 0] == count - 1
    assert steps.min() >= 2
    assert steps.max() <= 4


@pytest.mark.parametrize("activation", ["rectifier", "two_sided", "not_told"])
def test_round_trip_through_bytes(activation: str) -> None:
    written = baseline(activation)
    read = Baseline.from_bytes(written.to_bytes())
    assert read.images == written.images
    assert np.array_equal(read.fired, written.fired)
    assert np.array_equal(read.predicted, written.predicted)
    assert set(read.moments) == set(written.moments)
    for output, moments in written.moments.items():
        assert read.moments[output].count == moments.count
        assert np.array_equal(read.moments[output].mean, moments.mean)
        assert np.array_equal(read.moments[output].m2, moments.m2)
    assert set(read.samples) == set(written.samples)
    for name, values in written.samples.items():
        assert np.array_equal(read.samples[name], values, equal_nan=True)


def test_an_older_baseline_has_fewer_samples() -> None:
    written = baseline("rectifier")
    later = {"mean_shift", "silent_channels"}
    older = replace(written, samples={name: values for name, values in written.samples.items() if name not in later})
    assert set(Baseline.from_bytes(older.to_bytes()).samples) == set(written.samples) - later


@pytest.mark.parametrize("entry", ModelRepository(SHIPPED_MODELS).entries(), ids=str)
def test_baselines_of_the_shipped_models_can_be_read(entry: Entry) -> None:
    bundle = ModelRepository(SHIPPED_MODELS).open(entry.name, entry.version)
    assert bundle.baseline is not None
    assert Baseline.from_bytes(bundle.baseline).images >= 360


def test_archive_holds_no_pickled_object() -> None:
    with zipfile.ZipFile(io.BytesIO(baseline("rectifier").to_bytes())) as archive:
        for name in archive.namelist():
            np.lib.format.read_array(archive.open(name), allow_pickle=False)


def archive(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def single_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an archive",
        b"PK\x03\x04 not an archive either",
        baseline("rectifier").to_bytes()[:-200],
        archive(nothing=np.arange(3)),
        archive(images=np.array(3), fired=np.array([object()], dtype=object), predicted=np.arange(2)),
        single_array(),
    ],
    ids=["empty", "text", "broken zip", "truncated", "other archive", "pickled object", "single array"],
)
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="the baseline cannot be read"):
        Baseline.from_bytes(content)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_a_model_that_overflows_has_no_baseline(value: float) -> None:
    pixels = graphs.images(5)
    pixels[3, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"statistics\.mean is not finite on the baseline images"):
        Baseline.of(batches("never", pixels, 2), graphs.manifest("never"))
