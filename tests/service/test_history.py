"""The history in SQLite and in PostgreSQL: rows, merging, dropping, and several processes at once."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select, text

from models.statistics.window import Window
from service.history.database import RETENTION_LOCK, SQLITE, open_engine
from service.history.retention import DAY, HOUR, Retention
from service.history.store import HistoryStore
from service.history.tables import BUCKETS, MERGED, METADATA, Key, Row
from service.history.writer import HistoryWriter
from tests.service import databases, watched
from tests.service.conftest import eventually

KEY = Key("tiny", 1, "a" * 64)
NOW = 1_000_000_000 // HOUR * HOUR + 1800


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with databases.postgresql() as address:
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'deep' / 'er' / 'history.sqlite3'}"
    return databases.emptied(request.getfixturevalue("server"))


@pytest.fixture
def store(address: str) -> Iterator[HistoryStore]:
    store = HistoryStore(open_engine(address))
    store.prepare()
    yield store
    store.close()


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    model = watched.load()
    return [watched.window(model, 3, seed) for seed in range(12)]


def row(window: Window, start: int, replica: str = "one", key: Key = KEY, seconds: int = 60) -> Row:
    return Row(key, replica, start, seconds, window.images, window.to_bytes())


def same(first: Window, second: Window) -> None:
    """Equal up to rounding of sums."""
    for name, values in first.arrays().items():
        np.testing.assert_allclose(values, second.arrays()[name], rtol=1e-9, atol=1e-12, err_msg=name)


def count(store: HistoryStore) -> int:
    with store.engine.connect() as connection:
        return int(connection.scalar(select(func.count()).select_from(BUCKETS)) or 0)


def test_what_is_written_is_read_in_order_and_only_of_this_graph(store: HistoryStore, windows: list[Window]) -> None:
    rows = [row(window, NOW + 60 * index) for index, window in enumerate(windows)]
    others = [
        row(windows[0], NOW, key=Key("tiny", version, graph)) for version, graph in ((2, "a" * 64), (1, "b" * 64))
    ]
    store.write([*reversed(rows), *others])
    assert list(store.read(KEY, 0)) == rows
    assert list(store.read(KEY, NOW + 120)) == rows[2:]
    assert list(store.read(KEY, NOW + 119)) == rows[1:]
    assert list(store.read(KEY, NOW + 86400)) == []
    assert store.size() == sum(len(row.content) for row in (*rows, *others))


def test_retries_do_no_harm(store: HistoryStore, windows: list[Window]) -> None:
    rows = [row(window, NOW + 60 * index) for index, window in enumerate(windows)]
    for _ in range(3):
        store.write(rows[:5])
        store.write(rows)
    assert list(store.read(KEY, 0)) == rows


def test_the_migrations_make_the_table_that_the_code_uses(store: HistoryStore) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, METADATA) == []
        assert context.get_current_revision() == "0001"
    store.prepare()


def test_minutes_become_hours_that_say_the_same(store: HistoryStore, windows: list[Window]) -> None:
    old = NOW - 3 * DAY
    rows = [row(window, old + 600 * index, f"replica{index % 3}") for index, window in enumerate(windows)]
    fresh = row(windows[0], NOW - 120)
    store.write([*rows, fresh])
    Retention(store, 30, 1 << 40).apply(NOW)
    *hours, last = store.read(KEY, 0)
    assert last == fresh
    assert {(hour.replica, hour.seconds, hour.start % HOUR) for hour in hours} == {(MERGED, HOUR, 0)}
    assert sorted({hour.start for hour in hours}) == sorted({row.start // HOUR * HOUR for row in rows})
    merged = reduce(Window.merged, [Window.from_bytes(hour.content) for hour in hours])
    same(merged, reduce(Window.merged, windows))
    assert [hour.images for hour in hours] == [Window.from_bytes(hour.content).images for hour in hours]


def test_what_comes_late_is_added_to_its_hour(store: HistoryStore, windows: list[Window]) -> None:
    start = (NOW - 2 * DAY) // HOUR * HOUR
    retention = Retention(store, 30, 1 << 40)
    for index, window in enumerate(windows[:3]):
        store.write([row(window, start + 60 * index)])
        retention.apply(NOW)
        retention.apply(NOW)
    (hour,) = store.read(KEY, 0)
    same(Window.from_bytes(hour.content), reduce(Window.merged, windows[:3]))


def test_rows_of_another_release_or_broken_ones_do_not_stop_the_merging(
    store: HistoryStore, windows: list[Window], caplog: pytest.LogCaptureFixture
) -> None:
    start = (NOW - 2 * DAY) // HOUR * HOUR
    broken = Row(KEY, "broken", start, 60, 3, b"no window")
    store.write([row(windows[0], start), broken, row(windows[1], start + 60)])
    Retention(store, 30, 1 << 40).apply(NOW)
    (hour,) = store.read(KEY, 0)
    same(Window.from_bytes(hour.content), windows[0].merged(windows[1]))
    assert "a row of 'tiny' version 1 is left out of its hour" in caplog.text


def test_old_rows_are_dropped(store: HistoryStore, windows: list[Window]) -> None:
    rows = [row(windows[0], int(NOW - age * DAY)) for age in (31, 30.1, 0.5)]
    store.write(rows)
    Retention(store, 30, 1 << 40).apply(NOW)
    assert list(store.read(KEY, 0)) == rows[2:]


def test_the_history_never_stays_larger_than_it_may(store: HistoryStore, windows: list[Window]) -> None:
    rows = [row(windows[0], NOW - 60 * index) for index in range(300)]
    store.write(rows)
    limit = 150 * len(rows[0].content)
    Retention(store, 30, limit).apply(NOW)
    kept = list(store.read(KEY, 0))
    assert store.size() <= limit
    # It drops some rows at once, the oldest.
    assert 150 - 64 <= len(kept) <= 150
    assert kept[-1].start == NOW
    Retention(store, 30, 0).apply(NOW)
    assert count(store) == 0


def test_only_one_process_merges_at_a_time(store: HistoryStore, windows: list[Window]) -> None:
    if store.engine.dialect.name == SQLITE:
        pytest.skip("a transaction of SQLite excludes every other by itself")
    store.write([row(windows[0], NOW - 2 * DAY), row(windows[0], NOW - 40 * DAY)])
    with store.engine.begin() as other:
        other.execute(select(func.pg_advisory_xact_lock(RETENTION_LOCK)))
        Retention(store, 30, 0).apply(NOW)
        assert count(store) == 2
    Retention(store, 30, 1 << 40).apply(NOW)
    assert count(store) == 1


# Processes

PROCESS = """
import sys
from service.history.database import open_engine
from service.history.retention import Retention
from service.history.store import HistoryStore
from service.history.tables import Key, Row

address, replica, content, now = sys.argv[1], sys.argv[2], open(sys.argv[3], "rb").read(), int(sys.argv[4])
store = HistoryStore(open_engine(address))
sys.stdin.readline()
store.prepare()
for index in range(40):
    start = now - 2 * 86400 + 60 * index if index % 2 else now + 60 * index
    store.write([Row(Key("tiny", 1, "a" * 64), replica, start, 60, 3, content)])
    if index % 10 == 9:
        Retention(store, 30, 1 << 40).apply(now)
store.close()
"""


def start_together(program: str, arguments: Callable[[int], list[str]], processes: int) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments(index)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for index in range(processes)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        _, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints


def test_processes_make_write_and_merge_the_same_history_at_once(
    address: str, tmp_path: Path, windows: list[Window]
) -> None:
    content = tmp_path / "window"
    content.write_bytes(windows[0].to_bytes())
    start_together(PROCESS, lambda index: [address, f"replica{index}", str(content), str(NOW)], processes=2)
    store = HistoryStore(open_engine(address))
    # One that finds another at it leaves its rows to the next time.
    Retention(store, 30, 1 << 40).apply(NOW)
    rows = list(store.read(KEY, 0))
    store.close()
    # Every image of every process is there once.
    assert sum(Window.from_bytes(row.content).images for row in rows) == 2 * 40 * 3
    assert {row.replica for row in rows} == {MERGED, "replica0", "replica1"}
    assert sum(row.seconds == 60 for row in rows) == 2 * 20


def test_connections_that_break_are_made_again(server: str, windows: list[Window]) -> None:
    store = HistoryStore(open_engine(databases.emptied(server)))
    now = int(time.time())
    writer = HistoryWriter(store, Retention(store, 30, 1 << 40), first_wait=0.05)
    writer.start()
    breaking = open_engine(server)
    for index, window in enumerate(windows):
        writer.offer(row(window, now + 60 * index))
        eventually(lambda index=index: writer.counts.written == index + 1)
        with breaking.begin() as connection:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname"
            connection.execute(text(f"{others} = current_database()"))
    writer.close(5)
    breaking.dispose()
    store = HistoryStore(open_engine(server))
    assert [found.start for found in store.read(KEY, 0)] == [now + 60 * index for index in range(len(windows))]
    store.close()


# Addresses


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("mysql://user:secret@host/name", "cannot be kept in 'mysql'"),
        ("no address, but a secret", "is no URL"),
        ("oddsql://secret@host", "cannot be kept in 'oddsql'"),
        ("postgresql+nothing://secret@host/name", ""),
    ],
)
def test_a_wrong_address_is_said_without_repeating_it(wrong: str, complaint: str) -> None:
    if not complaint:
        # Whatever driver is named: the one that is installed is used.
        assert open_engine(wrong).dialect.driver == "psycopg"
        return
    with pytest.raises(ValueError, match=complaint) as error:
        open_engine(wrong)
    assert "secret" not in str(error.value)
