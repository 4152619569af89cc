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
from models.statistics.archive import pack, unpack
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
    assert set(actual.window.moments) == set(expected) - {layout.MAXIMUM, layout.MINIMUM}
    for output, moments in actual.window.moments.items():
        values = expected[output]
        assert set(moments.count.tolist()) == {IMAGES}
        np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-5, atol=1e-6, err_msg=output)
        np.testing.assert_allclose(moments.variance, values.var(0, ddof=1), rtol=1e-4, atol=1e-7, err_msg=output)
    np.testing.assert_allclose(actual.window.maximum, expected[layout.MAXIMUM].max(0), rtol=1e-6)
    if layout.MINIMUM in expected:
        np.testing.assert_allclose(actual.window.minimum, expected[layout.MINIMUM].min(0), rtol=1e-6)
    assert actual.window.fired.tolist() == (expected[layout.ACTIVE] > 0).sum(0).tolist()
    logits = graphs.run(graphs.graph(activation), graphs.images(IMAGES))["logits"]
    classes = logits.argmax(1)
    assert actual.predicted.tolist() == classes.tolist()
    assert actual.window.predicted.tolist() == [int((classes == label).sum()) for label in range(graphs.CLASSES)]


@pytest.mark.parametrize("activation", ["rectifier", "two_sided", "not_told"])
def test_samples_are_the_layer_values_of_the_images(activation: str) -> None:
    actual = baseline(activation)
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
    squares = (by_layer[layout.MEAN] ** 2).sum(2)
    expected["mean_shift"] = squares / by_layer[layout.MEAN_SQUARE].sum(2)
    if layout.MINIMUM in by_layer:
        expected["minimum"] = by_layer[layout.MINIMUM].min(2)
    if layout.SATURATED in by_layer:
        expected["saturated_fraction"] = by_layer[layout.SATURATED].mean(2)
    # The manifest is one of those that do not say whether zero is dead: no silent channels.
    assert {name.statistic for name in actual.names} == {*expected, "sparsity", "entropy", "margin", "energy"}
    assert actual.samples.shape == (IMAGES, len(actual.names))
    assert actual.samples.dtype == np.float32
    for name, table in expected.items():
        parts = ["layer1.0"] if name == "residual_share" else [f"layer1.{tensor}" for tensor in TENSORS]
        kept = np.stack([actual.samples_of(part, name) for part in parts], 1)
        np.testing.assert_allclose(kept, table, rtol=1e-4, atol=1e-6, err_msg=name)


def test_unknown_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'minimum' of 'layer1\.act1' is not measured in this model"):
        baseline("rectifier").samples_of("layer1.act1", "minimum")


def test_samples_count_silent_channels_where_that_means_death() -> None:
    manifest = graphs.manifest("rectifier", zero_is_dead=True)
    actual = Baseline.of(batches("rectifier", graphs.images(IMAGES), 16), manifest)
    raw = graphs.tensors(graphs.graph("rectifier"), TENSORS, graphs.images(IMAGES))
    silent = np.stack([(raw[tensor] == 0).all((2, 3)).sum(1) for tensor in TENSORS], 1)
    assert silent.any()
    for index, tensor in enumerate(TENSORS):
        assert actual.samples_of(f"layer1.{tensor}", "silent_channels").tolist() == silent[:, index].tolist()


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

    kept = Baseline.of(numbered(), manifest).samples_of("layer1.act1", "mean")
    assert kept.shape == (SAMPLED_IMAGES,)
    steps = np.diff(kept)
    assert kept[0] == 0
    assert kept[-1] == count - 1
    assert steps.min() >= 2
    assert steps.max() <= 4


@pytest.mark.parametrize("activation", ["rectifier", "two_sided", "not_told"])
def test_round_trip_through_bytes(activation: str) -> None:
    written = baseline(activation)
    read = Baseline.from_bytes(written.to_bytes(), graphs.manifest(activation))
    assert (read.images, read.names, read.graph) == (written.images, written.names, written.graph)
    assert read.samples.tolist() == written.samples.tolist()
    assert read.predicted.tolist() == written.predicted.tolist()
    for name, values in written.window.arrays().items():
        assert np.array_equal(read.window.arrays()[name], values), name
    for name, values in written.outliers.arrays().items():
        assert np.array_equal(read.outliers.arrays()[name], values), name
    assert read.to_bytes() == written.to_bytes()


def test_an_older_baseline_says_what_to_do() -> None:
    older = archive(images=np.array(3), fired=np.arange(3), predicted=np.arange(2))
    with pytest.raises(
        ValueError, match="has the format 1, expected 2: publish the model again, or `python -m training"
    ):
        Baseline.from_bytes(older, graphs.manifest("rectifier"))


def test_the_baseline_of_another_graph_is_refused() -> None:
    written = baseline("rectifier")
    manifest = graphs.manifest("rectifier", digests={"model.onnx": "b" * 64})
    for graph, accepted in (("b" * 64, True), ("", True), ("a" * 64, False)):
        content = replace(written, graph=graph).to_bytes()
        if accepted:
            assert Baseline.from_bytes(content, manifest).graph == graph
            continue
        with pytest.raises(
            ValueError, match=r"computed with another graph \(SHA-256 aaaaaaaaaaaa…, expected bbbbbbbbbbbb…\)"
        ):
            Baseline.from_bytes(content, manifest)


@pytest.mark.parametrize("other", ["two_sided", "not_told"])
def test_the_baseline_of_a_model_that_measures_something_else_is_refused(other: str) -> None:
    with pytest.raises(ValueError, match="of another model"):
        Baseline.from_bytes(baseline("rectifier").to_bytes(), graphs.manifest(other))


def test_the_baseline_of_a_model_with_other_layers_is_refused() -> None:
    manifest = graphs.manifest("rectifier")
    renamed = tuple(site.model_copy(update={"name": f"other.{site.name}"}) for site in manifest.sites)
    with pytest.raises(ValueError, match=r"it has samples of .*layer1\.act1"):
        Baseline.from_bytes(baseline("rectifier").to_bytes(), manifest.model_copy(update={"sites": renamed}))


@pytest.mark.parametrize("entry", ModelRepository(SHIPPED_MODELS).entries(), ids=str)
def test_baselines_of_the_shipped_models_can_be_read(entry: Entry) -> None:
    bundle = ModelRepository(SHIPPED_MODELS).open(entry.name, entry.version)
    assert bundle.baseline is not None
    read = Baseline.from_bytes(bundle.baseline, bundle.manifest)
    assert read.images >= 360
    assert read.graph == bundle.manifest.digests["model.onnx"]
    assert read.outliers.head is not None


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
        archive(
            format=np.array(2), images=np.array(3), fired=np.array([object()], dtype=object), predicted=np.arange(2)
        ),
        single_array(),
    ],
    ids=["empty", "text", "broken zip", "truncated", "pickled object", "single array"],
)
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="the baseline cannot be read"):
        Baseline.from_bytes(content, graphs.manifest("rectifier"))


@pytest.mark.parametrize("missing", ["samples", "names", "predicted", "outliers/mean", "window/images", "graph"])
def test_an_incomplete_baseline_is_refused(missing: str) -> None:
    stored = unpack(baseline("rectifier").to_bytes(), "it")
    del stored[missing]
    with pytest.raises(ValueError, match=missing.removeprefix("outliers/").removeprefix("window/")):
        Baseline.from_bytes(pack(stored), graphs.manifest("rectifier"))


def test_too_few_images_have_no_baseline() -> None:
    with pytest.raises(ValueError, match="3 images cannot say what is usual: give at least 4"):
        Baseline.of(batches("never", graphs.images(3), 2), graphs.manifest("never"))
    with pytest.raises(ValueError, match="no images for a baseline: give at least 4"):
        Baseline.of([], graphs.manifest("never"))


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_a_model_that_overflows_has_no_baseline(value: float) -> None:
    pixels = graphs.images(5)
    pixels[3, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"statistics\.mean is not finite on the baseline images"):
        Baseline.of(batches("never", pixels, 2), graphs.manifest("never"))
