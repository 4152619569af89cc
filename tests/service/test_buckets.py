"""Minutes in memory: whatever way the traffic came, the window is that of all its images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.statistics.window import Window
from service.monitor.buckets import Bucket, Buckets
from service.runtime.model import Tensors
from tests.service import watched

READER = watched.READER
IMAGES = 40


@pytest.fixture(scope="module")
def outputs() -> Tensors:
    return watched.outputs(watched.load(), watched.images(IMAGES))


def part(outputs: Tensors, start: int, end: int) -> Window:
    return READER.of({name: values[start:end] for name, values in outputs.items()})


def same(first: Window, second: Window) -> None:
    for name, values in first.arrays().items():
        np.testing.assert_allclose(values, second.arrays()[name], rtol=1e-9, atol=1e-12, err_msg=name)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_any_split_of_the_traffic_in_any_order_gives_the_window_of_all(outputs: Tensors, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, IMAGES - 1), max_size=12)))
    bounds = data.draw(st.permutations(list(zip([0, *cuts], [*cuts, IMAGES], strict=True))))
    times = sorted(data.draw(st.lists(st.floats(0, 3000), min_size=len(bounds), max_size=len(bounds))))
    # Some come late, some when the clock was set back.
    late = [time - data.draw(st.floats(0, 200)) for time in times]
    buckets, closed = Buckets(READER, seconds=60), []
    for (start, end), time in zip(bounds, late, strict=True):
        closed.append(buckets.add(part(outputs, start, end), time))
        if data.draw(st.booleans()):
            closed.append(buckets.close_before(time + data.draw(st.floats(0, 90))))
    span = buckets.since(-1e9)
    assert span is not None
    same(span.window, part(outputs, 0, IMAGES))
    # What was closed, as the history sees it: no bucket twice, and all images once.
    closed.append(buckets.close())
    written = [bucket for bucket in closed if bucket is not None]
    assert [bucket.start for bucket in written] == sorted({bucket.start for bucket in written})
    same(READER.merge([READER.from_bytes(bucket.content) for bucket in written]), part(outputs, 0, IMAGES))


def test_only_the_last_hour_is_kept(outputs: Tensors) -> None:
    buckets = Buckets(READER, seconds=60)
    for minute in range(100):
        buckets.add(part(outputs, 0, 1), 60 * minute)
    closed, unclosed = buckets.kept(0)
    assert [bucket.start for bucket in closed] == [60 * minute for minute in range(39, 99)]
    assert unclosed is not None
    assert (unclosed.start, unclosed.end, buckets.newest) == (5940, 6000, 6000)


def test_a_window_is_of_the_buckets_that_reach_into_it(outputs: Tensors) -> None:
    buckets = Buckets(READER, seconds=60)
    for minute, images in enumerate((1, 2, 4, 8)):
        buckets.add(part(outputs, 0, images), 60 * minute + 30)
    for since, images in ((0, 15), (59.9, 15), (60, 14), (119, 14), (120, 12), (200, 8), (239, 8)):
        span = buckets.since(since)
        assert span is not None
        assert span.window.images == images, since
    assert buckets.since(240) is None
    between = buckets.between(60, 180)
    assert between is not None
    assert (between.start, between.end, between.window.images) == (60, 180, 6)
    assert buckets.between(180, 240) is None  # not closed


def test_buckets_close_when_their_time_is_over(outputs: Tensors) -> None:
    buckets = Buckets(READER, seconds=60)
    assert buckets.close_before(1000) is None
    assert buckets.add(part(outputs, 0, 3), 61) is None
    assert buckets.close_before(119.9) is None
    bucket = buckets.close_before(120)
    assert bucket == Bucket(60, 60, 3, part(outputs, 0, 3).to_bytes())
    assert buckets.close() is None
