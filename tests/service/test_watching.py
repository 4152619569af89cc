"""The threads that watch, without the web."""

import time
from pathlib import Path

import pytest

from models.diagnosis.thresholds import Thresholds
from models.statistics.window import Window
from service.history.database import open_engine
from service.history.retention import Retention
from service.history.store import HistoryStore
from service.history.writer import HistoryWriter
from service.monitor.meters import Meters
from service.monitor.sampling import Sampling
from service.monitor.traffic import Traffic
from service.monitor.watch import key_of
from service.runtime.model import LoadedModel
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
