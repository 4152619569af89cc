"""The threads that watch, without the web."""

import time
from pathlib import Path

import pytest

from models.diagnosis.thresholds import Thresholds
from models.repository import ModelRepository
from models.statistics.window import Window, WindowReader
from service.history.database import open_engine
from service.history.retention import Retention
from service.history.store import HistoryStore
from service.history.writer import HistoryWriter
from service.monitor.meters import Meters
from service.monitor.sampling import Sampling
from service.monitor.traffic import Traffic
from service.monitor.watch import Watch, key_of
from service.runtime.model import LoadedModel
from service.runtime.provider import CPU
from tests.service import watched
from tests.service.conftest import eventually
from tests.service.test_metrics import value

THRESHOLDS = Thresholds(window_seconds=1)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return watched.load()


def observe(traffic: Traffic, model: LoadedModel, images: int) -> None:
    observer = traffic.observer()
    assert observer is not None
    observer(model, watched.outputs(model, watched.images(images)))


def test_the_end_writes_the_minute_that_is_not_over(tmp_path: Path, model: LoadedModel) -> None:
    address = f"sqlite:///{tmp_path / 'history.sqlite3'}"
    store = HistoryStore(open_engine(address))
    traffic = Traffic(Meters(), 1.0, THRESHOLDS, HistoryWriter(store, Retention(store, 30, 1 << 30)))
    traffic.start()
    observe(traffic, model, 5)
    traffic.close()
    store = HistoryStore(open_engine(address))
    rows = list(store.read(key_of(model), 0))
    store.close()
    assert {row.replica for row in rows} == {traffic.replica}
    assert sum(Window.from_bytes(row.content).images for row in rows) == 5


def test_two_processes_never_share_a_name() -> None:
    names = {Traffic(Meters(), 0.0, THRESHOLDS).replica for _ in range(50)}
    assert len(names) == 50
    assert max(map(len, names)) <= 128


def test_windows_are_judged_when_they_are_over_and_idle_models_forgotten(model: LoadedModel) -> None:
    traffic = Traffic(Meters(), 1.0, THRESHOLDS, bucket_seconds=1)
    traffic.start()
    observe(traffic, model, 5)
    watch = traffic.watch(model)
    eventually(lambda: watch.judge.recent)
    (judgement,) = watch.judge.recent
    assert (judgement.diagnosis.images, judgement.end - judgement.start) == (5, 1)
    assert judgement.end <= time.time()
    # Too few images to say anything.
    assert judgement.diagnosis.findings == []
    assert {missing.reason.partition(":")[0] for missing in judgement.diagnosis.unjudged} <= {
        "not enough data",
        "no baseline",
    }
    assert traffic.watch(model) is watch
    traffic._tick(watch, time.time() + 3600)
    assert traffic.watches == []
    traffic.close()


def test_samples_that_are_dropped_are_counted(model: LoadedModel) -> None:
    meters = Meters()
    traffic = Traffic(meters, 1.0, THRESHOLDS)
    traffic._sampling = Sampling(1.0, traffic._count, max_pending_bytes=10)
    observe(traffic, model, 2)
    text = meters.exposition([], 0).decode()
    assert value(text, "reslens_dropped_samples_total", model="tiny") == 1
    assert value(text, "reslens_sampled_images_total", model="tiny") == 0


def test_whoever_is_not_drawn_is_not_watched() -> None:
    assert Traffic(Meters(), 0.0, THRESHOLDS).observer() is None


def test_a_rule_that_lacks_images_waits_for_more_and_no_image_counts_twice(tmp_path: Path) -> None:
    watched.publish(tmp_path)
    model = LoadedModel(ModelRepository(tmp_path).open("tiny"), CPU, threads=1)
    watch = Watch(model, 60, 60, Thresholds(window_seconds=60))
    reader, hour = WindowReader(model.manifest), 3600
    lacking = []
    for minute in range(6):
        window = reader.of(watched.outputs(model, watched.images(80, seed=minute)))
        watch.buckets.add(window, hour + 60 * minute + 1)
        watch.buckets.close_before(hour + 60 * minute + 60)
        watch.judge_due(hour + 60 * minute + 60)
        diagnosis = watch.judge.recent[-1].diagnosis
        assert diagnosis.images == 80
        lacking.append({missing.rule: (missing.images, missing.needed) for missing in diagnosis.unjudged})
    # 200 images are there at the end of the third minute, and again at the end of the sixth.
    assert [found.get("drift") for found in lacking] == [(80, 200), (160, 200), None] * 2
    # 100 at the end of every second.
    assert [found.get("exploding") for found in lacking] == [(80, 100), None] * 3
    assert [found.get("not_finite") for found in lacking] == [None] * 6
    assert [found["dead_channels"] for found in lacking] == [(80 * minute, 3000) for minute in range(1, 7)]


def test_a_fault_of_little_traffic_is_found(tmp_path: Path) -> None:
    watched.publish(tmp_path)
    model = LoadedModel(ModelRepository(tmp_path).open("tiny"), CPU, threads=1)
    watch = Watch(model, 60, 60, Thresholds(window_seconds=60))
    reader = WindowReader(model.manifest)
    for minute in range(9):
        dark = watched.images(80, seed=minute) // 8
        watch.buckets.add(reader.of(watched.outputs(model, dark)), 60 * minute + 1)
        watch.buckets.close_before(60 * minute + 60)
        watch.judge_due(60 * minute + 60)
    drift = [finding for finding in watch.judge.confirmed if finding.rule == "drift"]
    assert drift
    assert {finding.images for finding in drift} == {240}
