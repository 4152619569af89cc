"""A slow, locked, full, missing or broken database never slows or fails a start or an inference."""

import logging
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy import event

from models.statistics.window import Window
from service.app import create_app
from service.errors import StartupError
from service.history.database import open_engine
from service.history.retention import Retention
from service.history.store import HistoryStore
from service.history.tables import Key, Row
from service.history.writer import MAX_AGE, HistoryWriter
from service.monitor.answers import StatisticsAnswer
from service.settings import Settings
from tests import bundles
from tests.service import watched
from tests.service.conftest import eventually, png, serving
from tests.service.test_metrics import value

KEY = Key("tiny", 1, "a" * 64)
CLASSIFY = "/v1/models/tiny/classify"


@pytest.fixture(scope="module")
def window() -> Window:
    return watched.window(watched.load(), 3)


def writer_of(store: HistoryStore, **options: object) -> HistoryWriter:
    return HistoryWriter(store, Retention(store, 30, 1 << 30), first_wait=0.05, **options)  # type: ignore[arg-type]


def rows(window: Window, count: int, start: float | None = None) -> list[Row]:
    first = int(start or time.time()) - 60 * count
    content = window.to_bytes()
    return [Row(KEY, "one", first + 60 * index, 60, window.images, content) for index in range(count)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite3"


@pytest.fixture
def store(file: Path) -> Iterator[HistoryStore]:
    store = HistoryStore(open_engine(f"sqlite:///{file}"))
    yield store
    store.close()


# The writer


def test_what_a_locked_file_delays_is_written_when_it_is_free(
    store: HistoryStore, file: Path, window: Window, caplog: pytest.LogCaptureFixture
) -> None:
    store.prepare()
    event.listen(store.engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout = 50"))
    store.engine.dispose()
    writer = writer_of(store)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        writer.start()
        started = time.perf_counter()
        for row in rows(window, 5):
            writer.offer(row)
        assert time.perf_counter() - started < 0.05
        eventually(lambda: writer.counts.failures >= 2)
        assert (writer.counts.written, writer.counts.pending) == (0, 5)
        other.execute("ROLLBACK")
    eventually(lambda: writer.counts.written == 5)
    writer.close(5)
    assert (writer.counts.pending, writer.counts.given_up) == (0, 0)
    assert len(list(store.read(KEY, 0))) == 5
    messages = [record.message for record in caplog.records]
    assert [message.count("tried again") for message in messages] == [1, 0]
    assert "locked" in messages[0]
    assert messages[1].endswith("can be written again")


def test_a_full_disk_is_tried_again(store: HistoryStore, window: Window) -> None:
    store.prepare()
    limits = iter([20, 20, 100_000])
    event.listen(
        store.engine,
        "checkout",
        lambda connection, *_: connection.execute(f"PRAGMA max_page_count = {next(limits, 10**6)}"),
    )
    writer = writer_of(store)
    for row in rows(window, 20):
        writer.offer(row)
    writer.start()
    eventually(lambda: writer.counts.written == 20)
    writer.close(5)
    assert writer.counts.failures >= 1


def test_a_file_that_was_deleted_is_made_again_and_never_written_to_unseen(
    store: HistoryStore, file: Path, window: Window
) -> None:
    writer = writer_of(store)
    first, *others = rows(window, 4)
    writer.start()
    writer.offer(first)
    eventually(lambda: writer.counts.written == 1)
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()
    for row in others:
        writer.offer(row)
    eventually(lambda: writer.counts.written == 4)
    writer.close(5)
    assert [row.start for row in store.read(KEY, 0)] == [row.start for row in others]


def test_a_backlog_is_bounded_and_what_is_given_up_is_counted(tmp_path: Path, window: Window) -> None:
    (tmp_path / "taken").write_text("a file where a directory should be")
    store = HistoryStore(open_engine(f"sqlite:///{tmp_path / 'taken' / 'history.sqlite3'}"))
    size = len(window.to_bytes())
    writer = writer_of(store, max_pending_bytes=10 * size)
    writer.start()
    for row in rows(window, 25):
        writer.offer(row)
    assert (writer.counts.pending, writer.counts.given_up) == (10, 15)
    eventually(lambda: writer.counts.failures >= 2)
    (tmp_path / "taken").unlink()
    eventually(lambda: writer.counts.written == 10)
    writer.close(5)
    assert (writer.counts.pending, writer.counts.given_up) == (0, 15)


def test_what_may_be_merged_already_is_not_written_again(store: HistoryStore, window: Window) -> None:
    writer = writer_of(store)
    old, new = rows(window, 1, time.time() - MAX_AGE - 60)[0], rows(window, 1)[0]
    writer.offer(old)
    writer.offer(new)
    writer.start()
    eventually(lambda: writer.counts.written == 1)
    writer.close(5)
    assert writer.counts.given_up == 1
    assert list(store.read(KEY, 0)) == [new]


def test_the_end_does_not_wait_for_a_database_that_does_not_answer(
    window: Window, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"postgresql://user:secret@127.0.0.1:{silent.getsockname()[1]}/name"
        writer = writer_of(HistoryStore(open_engine(address)))
        writer.start()
        writer.offer(rows(window, 1)[0])
        time.sleep(0.1)
        started = time.perf_counter()
        writer.close(0.3)
        assert time.perf_counter() - started < 2
    assert "the history lacks 1 buckets" in caplog.text
    assert "secret" not in caplog.text


# The service


def latencies(client: httpx.Client, count: int = 30) -> list[float]:
    image = png(watched.images(1)[0])
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        assert client.post(CLASSIFY, content=image).status_code == 200
        seconds.append(time.perf_counter() - started)
    return seconds


# Ways to be broken: each gives the address, and leaves what must be undone on the stack.


def locked(folder: Path, undo: ExitStack) -> str:
    file = folder / "locked.sqlite3"
    connection = undo.enter_context(closing(sqlite3.connect(file, isolation_level=None)))
    connection.execute("BEGIN EXCLUSIVE")
    return f"sqlite:///{file}"


def corrupt(folder: Path, _: ExitStack) -> str:
    file = folder / "corrupt.sqlite3"
    file.write_bytes(b"this is no database, " * 1000)
    return f"sqlite:///{file}"


def missing(folder: Path, _: ExitStack) -> str:
    (folder / "file").touch()
    return f"sqlite:///{folder / 'file' / 'below' / 'history.sqlite3'}"


def unreachable(_: Path, __: ExitStack) -> str:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        return f"postgresql://user:secret@127.0.0.1:{gone.getsockname()[1]}/name"


def silent(_: Path, undo: ExitStack) -> str:
    server = undo.enter_context(socket.create_server(("127.0.0.1", 0)))
    return f"postgresql://user:secret@127.0.0.1:{server.getsockname()[1]}/name"


@pytest.mark.parametrize("broken", [locked, corrupt, missing, unreachable, silent])
def test_a_broken_database_slows_and_fails_no_start_and_no_inference(
    tmp_path: Path, broken: Callable[[Path, ExitStack], str], caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "shelf"
    bundles.publish(root)
    with ExitStack() as undo:
        address = broken(tmp_path, undo)
        started = time.perf_counter()
        with serving(root, bucket_seconds=1, statistics_sample=1, history_url=address) as client:
            # A lock is waited for 5 s: not by these.
            assert time.perf_counter() - started < 4
            end = time.monotonic() + 2.2
            slowest = 0.0
            while time.monotonic() < end:
                slowest = max(slowest, *latencies(client))
            assert slowest < 1
            assert client.get("/v1/models/tiny/statistics?window=5m").json()["images"] > 0
            eventually(lambda: value(client.get("/metrics").text, "reslens_history_buckets_pending") >= 1)
            assert value(client.get("/metrics").text, "reslens_history_buckets_written_total") == 0
            if broken in (corrupt, missing, unreachable):
                response = client.get("/v1/models/tiny/statistics?window=7d")
                assert response.status_code == 503
                assert "the history cannot be read" in response.json()["error"]
                assert "secret" not in response.text
    assert "secret" not in caplog.text


def test_questions_to_the_history_hold_up_no_others(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    with ExitStack() as undo, serving(tmp_path, history_url=silent(tmp_path, undo)) as client:
        waiting = [
            threading.Thread(target=client.get, args=("/v1/models/tiny/statistics?window=7d",)) for _ in range(4)
        ]
        for thread in waiting:
            thread.start()
        time.sleep(0.2)
        started = time.perf_counter()
        for path in ("statistics?window=1h", "diagnosis", "diagnosis?window=5m", "baseline"):
            client.get(f"/v1/models/tiny/{path}")
        latencies(client, 3)
        assert time.perf_counter() - started < 2
        assert all(thread.is_alive() for thread in waiting)
        undo.close()
        for thread in waiting:
            thread.join()


def test_the_history_outlives_the_process_and_is_of_all_replicas(tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    address = f"sqlite:///{tmp_path / 'history.sqlite3'}"
    settings = {"bucket_seconds": 1, "statistics_sample": 1, "history_url": address}
    with serving(tmp_path / "shelf", **settings) as first, serving(tmp_path / "shelf", **settings) as second:
        latencies(first, 5)
        latencies(second, 7)
    with serving(tmp_path / "shelf", **settings) as third:
        latencies(third, 3)
        eventually(lambda: third.get("/v1/models/tiny/statistics?window=1d").json()["images"] == 15)
        answer = StatisticsAnswer.model_validate(third.get("/v1/models/tiny/statistics?window=1d").json())
        assert third.get("/v1/models/tiny/statistics?window=1h").json()["images"] == 3
    assert (answer.source, len(answer.replicas), answer.unreadable) == ("history", 3, 0)


def test_rows_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    address = f"sqlite:///{tmp_path / 'history.sqlite3'}"
    with serving(tmp_path / "shelf", statistics_sample=1, history_url=address) as client:
        latencies(client, 2)
        digest = client.get("/v1/models/tiny").json()["manifest"]["digests"]["model.onnx"]
        eventually(lambda: client.get("/v1/models/tiny/statistics?window=6h").status_code == 200)
        store = HistoryStore(open_engine(address))
        store.write([Row(Key("tiny", 1, digest), "another", int(time.time()) - 60, 60, 9, b"no window")])
        store.close()
        eventually(lambda: client.get("/v1/models/tiny/statistics?window=6h").json()["images"] == 2)
        assert client.get("/v1/models/tiny/statistics?window=6h").json()["unreadable"] == 1


def test_an_address_that_can_never_work_is_said_at_start(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    with pytest.raises(StartupError, match=r"'mysql'.*RESLENS_HISTORY_URL"):
        create_app(Settings(model_repository=tmp_path, provider="cpu", history_url="mysql://host/name"))


def test_the_history_is_in_the_data_directory_unless_it_is_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RESLENS_HISTORY_URL")
    bundles.publish(tmp_path / "shelf")
    with caplog.at_level(logging.WARNING), serving(tmp_path / "shelf", data_directory=tmp_path / "data") as client:
        latencies(client, 1)
        eventually((tmp_path / "data" / "history.sqlite3").exists)
    assert caplog.records == []
