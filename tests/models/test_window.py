"""Windows of any split, merged in any order and by any tree, equal one pass over all raw activations in float64."""

import math
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.instrument import instrument
from models.manifest import ModelManifest
from models.statistics import layout
from models.statistics.archive import pack, unpack
from models.statistics.baseline import Baseline
from models.statistics.features import Features
from models.statistics.histograms import BINS, bins
from models.statistics.window import UNUSUAL, Window, WindowReader
from tests.models import graphs

Outputs = dict[str, NDArray[np.float32]]
Raw = dict[str, NDArray[np.float64]]

ACTIVATIONS = ["rectifier", "two_sided", "not_told"]
TENSORS = ["act1", "act2", "act3"]
IMAGES = 24
BROKEN = st.sampled_from([np.nan, np.inf, -np.inf])


def manifest(activation: str) -> ModelManifest:
    return graphs.manifest(activation, zero_is_dead=activation == "rectifier" or None)


@cache
def activations() -> Raw:
    """Raw maps of three layers: smooth ones in both signs; those of a rectifier are their positive part."""
    random = np.random.default_rng(0)
    shape = (IMAGES, graphs.WIDTH, 4, 4)
    raw = {tensor: random.normal(0, 1, shape) + random.normal(0, 1, (*shape[:2], 1, 1)) for tensor in TENSORS}
    return {name: np.tanh(values) for name, values in raw.items()}


def statistics(raw: Raw, logits: NDArray[np.float64], described: ModelManifest) -> Outputs:
    """What an instrumented graph puts out for these activations: its reductions, rounded to float32."""
    signed, saturation = described.sites[0].signed, described.sites[0].saturation
    with np.errstate(all="ignore"):
        values = {
            layout.MEAN: [x.mean((2, 3)) for x in raw.values()],
            layout.MEAN_SQUARE: [(x**2).mean((2, 3)) for x in raw.values()],
            layout.ACTIVE: [(x > 0).mean((2, 3)) for x in raw.values()],
            layout.MAXIMUM: [x.max((2, 3)) for x in raw.values()],
            layout.BRANCH_ENERGY: [((raw["act3"] - raw["act1"]) ** 2).mean((1, 2, 3))[:, None]],
            layout.SHORTCUT_ENERGY: [(raw["act1"] ** 2).mean((1, 2, 3))[:, None]],
        }
        if signed:
            values[layout.MINIMUM] = [x.min((2, 3)) for x in raw.values()]
        if saturation is not None:
            values[layout.SATURATED] = [(np.abs(x) >= 0.95).mean((2, 3)) for x in raw.values()]
        outputs = {name: np.concatenate(parts, 1).astype(np.float32) for name, parts in values.items()}
    return outputs | {"logits": logits.astype(np.float32)}


def finite(values: NDArray[np.floating]) -> list[float]:
    return [float(value) for value in values if math.isfinite(value)]


def assert_describes(window: Window, raw: Raw, outputs: Outputs, described: ModelManifest) -> None:
    """One pass over everything, column by column, by the definitions; broken channels of an image left out."""
    whole = np.concatenate([np.isfinite(x).all((2, 3)) for x in raw.values()], 1)
    assert window.images == len(whole)
    assert window.not_finite.tolist() == (~whole).sum(0).tolist()
    for name, moments in window.moments.items():
        for column in range(outputs[name].shape[1]):
            values = outputs[name][:, column]
            values = finite(values[whole[:, column]] if name in layout.SITE_OUTPUTS else values)
            mean = math.fsum(values) / len(values) if values else 0.0
            assert moments.count[column] == len(values)
            assert moments.mean[column] == pytest.approx(mean, rel=1e-11, abs=1e-13)
            m2 = math.fsum((value - mean) ** 2 for value in values)
            assert moments.m2[column] == pytest.approx(m2, rel=1e-11, abs=1e-12)
    maps = np.concatenate(list(raw.values()), 1)
    for channel in range(maps.shape[1]):
        seen = maps[whole[:, channel], channel]
        assert window.maximum[channel] == np.float32(seen.max() if len(seen) else -np.inf)
        if len(window.minimum):
            assert window.minimum[channel] == np.float32(seen.min() if len(seen) else np.inf)
        assert window.fired[channel] == sum(bool((image > 0).any()) for image in seen)
    sure = [row.argmax() for row in outputs["logits"] if np.isfinite(row).all()]
    assert window.predicted.tolist() == [sure.count(label) for label in range(graphs.CLASSES)]
    for index, (first, rows) in enumerate(zip(range(0, maps.shape[1], graphs.WIDTH), window.spreads, strict=True)):
        here = whole[:, first : first + graphs.WIDTH].all(1)
        means = outputs[layout.MEAN][here, first : first + graphs.WIDTH].astype(np.float64)
        assert rows.count == len(means), index
        if len(means):
            centred = means - means.mean(0)
            np.testing.assert_allclose(rows.mean, means.mean(0), rtol=1e-11, atol=1e-13)
            np.testing.assert_allclose(rows.scatter, centred.T @ centred, rtol=1e-11, atol=1e-12)
    assert_scalars(window, raw, described)


def assert_scalars(window: Window, raw: Raw, described: ModelManifest) -> None:
    """Counts of the scalars whose definition needs nothing but the raw activations."""
    names = WindowReader(described).names
    for site, x in zip(described.sites, raw.values(), strict=True):
        column = names.index((site.name, "mean"))
        # Of whole images: the infinities of both signs have no mean.
        layer = x[np.isfinite(x).all((1, 2, 3))].mean((2, 3)).astype(np.float32).astype(np.float64).mean(1).tolist()
        assert window.scalars.count[column] == len(layer)
        assert window.scalars.total[column] == pytest.approx(math.fsum(layer), rel=1e-11, abs=1e-12)
        assert window.histograms[column].sum() == len(layer)
        peaks = x[np.isfinite(x).all((1, 2, 3))].max((1, 2, 3)).astype(np.float32)
        expected = np.bincount(bins(peaks), minlength=BINS)
        assert window.histograms[names.index((site.name, "maximum"))].tolist() == expected.tolist()


def tree(windows: list[Window]) -> Window:
    if len(windows) == 1:
        return windows[0]
    half = len(windows) // 2
    return tree(windows[half:]).merged(tree(windows[:half]))


def parts(outputs: Outputs, cuts: list[int]) -> Iterator[Outputs]:
    for start, end in zip([0, *cuts], [*cuts, len(outputs["logits"])], strict=True):
        yield {name: values[start:end] for name, values in outputs.items()}


@settings(deadline=None, max_examples=30)
@given(data=st.data(), activation=st.sampled_from(ACTIVATIONS))
def test_any_split_in_any_order(data: st.DataObject, activation: str) -> None:
    described = manifest(activation)
    raw = {name: np.maximum(x, 0) if activation == "rectifier" else x.copy() for name, x in activations().items()}
    logits = np.random.default_rng(1).normal(0, 3, (IMAGES, graphs.CLASSES))
    image = st.integers(0, IMAGES - 1)
    for _ in range(data.draw(st.integers(0, 4))):
        maps = raw[data.draw(st.sampled_from(TENSORS))]
        maps[data.draw(image), data.draw(st.integers(0, graphs.WIDTH - 1)), 1, 2] = data.draw(BROKEN)
    for _ in range(data.draw(st.integers(0, 2))):
        logits[data.draw(image), data.draw(st.integers(0, graphs.CLASSES - 1))] = data.draw(BROKEN)
    outputs = statistics(raw, logits, described)
    cuts = sorted(data.draw(st.lists(st.integers(0, IMAGES), max_size=6)))
    reader = WindowReader(described)
    windows = data.draw(st.permutations([reader.of(part) for part in parts(outputs, cuts)]))
    stored = [reader.from_bytes(window.to_bytes()) for window in windows]
    for merged in (reader.merge(windows), tree(windows), tree(stored), reader.from_bytes(tree(stored).to_bytes())):
        assert_describes(merged, raw, outputs, described)


@pytest.fixture
def window() -> Window:
    outputs = graphs.run(instrumented("two_sided"), graphs.images(9))
    return WindowReader(graphs.manifest("two_sided")).of(outputs)


@cache
def instrumented(activation: str) -> onnx.ModelProto:
    return instrument(graphs.graph(activation), graphs.manifest(activation))


def assert_equal(first: Window, second: Window) -> None:
    assert first.arrays().keys() == second.arrays().keys()
    for name, values in first.arrays().items():
        assert np.array_equal(values, second.arrays()[name]), name
        assert values.dtype == second.arrays()[name].dtype, name


def test_round_trip_is_exact_with_and_without_the_manifest(window: Window) -> None:
    content = window.to_bytes()
    assert_equal(WindowReader(graphs.manifest("two_sided")).from_bytes(content), window)
    assert_equal(Window.from_bytes(content), window)
    assert window.to_bytes() == content


def test_the_empty_window_changes_nothing(window: Window) -> None:
    empty = WindowReader(graphs.manifest("two_sided")).empty()
    assert_equal(empty.merged(window), window)
    assert_equal(window.merged(empty), window)
    assert_equal(WindowReader(graphs.manifest("two_sided")).from_bytes(empty.to_bytes()), empty)
    assert math.isnan(empty.spreads[0].rank)


def test_merging_leaves_its_operands_alone(window: Window) -> None:
    before = {name: values.copy() for name, values in window.arrays().items()}
    window.merged(window)
    for name, values in window.arrays().items():
        assert np.array_equal(values, before[name]), name


def test_an_overflowing_image_poisons_nothing() -> None:
    described = graphs.manifest("never")
    pixels = graphs.images(6)
    pixels[2] = np.inf
    reader = WindowReader(described)
    outputs = graphs.run(instrumented("never"), pixels)
    whole = reader.of(outputs)
    rest = reader.of({name: np.delete(values, 2, 0) for name, values in outputs.items()})
    assert (whole.images, rest.images) == (6, 5)
    assert whole.not_finite.min() == 1
    assert (whole.not_finite == whole.images - whole.moments[layout.MEAN].count).all()
    without = {"images"}
    for name, values in whole.arrays().items():
        if name not in without:
            np.testing.assert_allclose(values, rest.arrays()[name], rtol=1e-12, atol=1e-14, err_msg=name)


def test_images_are_judged_against_the_baseline() -> None:
    described = graphs.manifest("rectifier")
    outputs = graphs.run(instrumented("rectifier"), graphs.images(300))
    usual = Baseline.of([outputs], described)
    reader = WindowReader(described, usual.outliers)
    strange = graphs.run(instrumented("rectifier"), 20 * graphs.images(5, seed=3))
    merged = reader.of(strange).merged(reader.of(outputs))
    expected = sum(int((usual.outliers.combined(seen) < UNUSUAL).sum()) for seen in map(features, (strange, outputs)))
    assert (merged.judged, merged.unusual) == (305, expected)
    assert reader.of(strange).unusual == 5
    assert WindowReader(described).of(strange).judged == 0


def features(outputs: Outputs) -> Features:
    return Features.of(outputs, graphs.manifest("rectifier"))


def test_a_window_of_a_large_network_is_small() -> None:
    """ResNet-50: 22,720 channels in 49 layers and 1000 classes."""
    described = graphs.manifest("rectifier")
    widths = [64] + [64, 64, 256] * 3 + [128, 128, 512] * 4 + [256, 256, 1024] * 6 + [512, 512, 2048] * 3
    sites = [described.sites[0].model_copy(update={"name": f"act{n}", "channels": w}) for n, w in enumerate(widths)]
    classes = tuple(map(str, range(1000)))
    window = WindowReader(described.model_copy(update={"sites": tuple(sites), "class_names": classes})).empty()
    kept: dict[int, int] = {}
    for moments in (window.scalars, *window.moments.values()):
        kept |= {id(array): array.nbytes for array in (moments.count, moments.mean, moments.m2)}
    single = (window.predicted, window.maximum, window.minimum, window.fired, window.histograms)
    spreads = sum(spread.mean.nbytes + spread.triangle.nbytes for spread in window.spreads)
    assert sum(kept.values()) + sum(array.nbytes for array in single) + spreads < 4e6


class TestRefusals:
    @pytest.mark.parametrize("other", ["rectifier", "not_told"])
    def test_another_model(self, window: Window, other: str) -> None:
        with pytest.raises(ValueError, match="the window is of another model"):
            WindowReader(graphs.manifest(other)).from_bytes(window.to_bytes())

    def test_other_widths(self, window: Window) -> None:
        described = graphs.manifest("two_sided")
        site = described.sites[0]
        wide = tuple(
            site.model_copy(update={"name": name, "channels": width})
            for name, width in [("a", 8), ("b", 24), ("c", 16)]
        )
        with pytest.raises(ValueError, match="the window is of another model"):
            WindowReader(described.model_copy(update={"sites": wide})).from_bytes(window.to_bytes())

    @pytest.mark.parametrize("name", ["images", "moments/statistics.mean/m2", "spread/mean", "histograms/index"])
    def test_something_missing(self, window: Window, name: str) -> None:
        stored = unpack(window.to_bytes(), "it")
        del stored[name]
        with pytest.raises(ValueError, match=name.rsplit("/", 1)[-1]):
            WindowReader(graphs.manifest("two_sided")).from_bytes(pack(stored))

    @pytest.mark.parametrize("name", ["images", "predicted", "fired", "spread/mean", "histograms/index"])
    def test_another_kind_of_number(self, window: Window, name: str) -> None:
        stored = unpack(window.to_bytes(), "it")
        stored[name] = np.full(stored[name].shape, "text")
        with pytest.raises(ValueError, match="the window is of another model"):
            WindowReader(graphs.manifest("two_sided")).from_bytes(pack(stored))

    def test_a_bin_that_does_not_exist(self, window: Window) -> None:
        stored = unpack(window.to_bytes(), "it")
        for index in (-1, 10**7):
            stored["histograms/index"][0] = index
            with pytest.raises(ValueError, match="the window cannot be read"):
                WindowReader(graphs.manifest("two_sided")).from_bytes(pack(stored))

    @settings(deadline=None, max_examples=150)
    @given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), end=st.floats(0, 1))
    @example(position=0.0, flip=1, end=0.0)
    def test_damaged_bytes(self, position: float, flip: int, end: float) -> None:
        """Whatever is flipped or cut off: the window or a ValueError, never something else."""
        content = bytearray(whole())
        content[int(position * len(content))] ^= flip
        for damaged in (bytes(content), whole()[: int(end * len(content))]):
            with suppress(ValueError):
                Window.from_bytes(damaged)


@cache
def whole() -> bytes:
    outputs = graphs.run(instrumented("two_sided"), graphs.images(3))
    return WindowReader(graphs.manifest("two_sided")).of(outputs).to_bytes()
