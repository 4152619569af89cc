"""Limits on how often each caller may ask."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access import slots
from service.access.keys import new_key
from service.access.rates import Rates
from service.access.slots import OwnSlots, SharedSlots
from tests import bundles
from tests.service.operated import Operated, operated

ROOT = Path(__file__).parents[2]
SLOW, FAST = new_key("slow"), new_key("fast", 1000.0)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root)
    lines = f"{SLOW[1].line()},{FAST[1].line()}"
    log = tmp_path_factory.mktemp("log") / "log"
    # So seldom that no second request is due while the test runs.
    with operated(root, log, INFERENCE_KEYS=lines, RATE_LIMIT=0.01, RATE_BURST=3) as service:
        yield service


def test_one_more_than_the_burst_is_told_when_to_come_again(service: Operated) -> None:
    answers = [service.client.get("/v2", headers={"X-API-Key": SLOW[0]}) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert 60 < int(answers[-1].headers["Retry-After"]) <= 100
    assert "Retry-After" in answers[-1].json()["error"]
    # Others, and what is open, are as before.
    assert service.client.get("/v2/health/ready").status_code == 200
    assert service.client.get("/v2", headers={"X-API-Key": FAST[0]}).status_code == 200


def test_without_keys_an_address_is_a_caller(tmp_path: Path) -> None:
    with operated(tmp_path, tmp_path / "log", RATE_LIMIT=0.01) as service:
        assert [service.client.get("/v2").status_code for _ in range(2)] == [200, 429]


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 5), min_size=1, max_size=200),
)
def test_it_is_a_bucket_of_tokens(rate: float, burst: int, pauses: list[float]) -> None:
    """Compared with the bucket itself: `burst` tokens at most, `rate` new ones a second, one for each request."""
    now, tokens = 0.0, float(burst)
    limited = Rates(rate, burst, lambda: now)
    for pause in pauses:
        now += pause
        tokens = min(burst, tokens + pause * rate)
        wait = limited.wait("one")
        if abs(tokens - 1) > 1e-6:  # else rounding decides
            assert (wait == 0) == (tokens > 1)
        if wait == 0:
            tokens -= 1
        else:
            assert wait == pytest.approx((1 - tokens) / rate, abs=1e-6)


def test_callers_do_not_share_and_one_may_have_a_rate_of_its_own() -> None:
    limited = Rates(1.0, 1, lambda: 0.0)
    assert [limited.wait("a"), limited.wait("b"), limited.wait("a")] == [0, 0, 1.0]
    assert [limited.wait("c", 2.0), limited.wait("c", 2.0)] == [0, 0.5]


def test_without_a_rate_nothing_is_limited_but_those_with_their_own() -> None:
    limited = Rates(None, None, lambda: 0.0)
    assert {limited.wait("a") for _ in range(100)} == {0}
    assert [limited.wait("b", 2.0) for _ in range(3)] == [0, 0, 0.5]


def test_callers_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "CALLERS", 3)
    own = OwnSlots()
    limited = Rates(1.0, 1, lambda: 0.0, own)
    assert [limited.wait(name) for name in "abcd"] == [0] * 4
    assert limited.wait("d") == 1.0
    assert limited.wait("a") == 0  # forgotten
    assert len(own) == 3


# Asks so often, in the name of each caller in turn, and prints how often it might.
ASKING = """
import sys
from pathlib import Path
from service.access.rates import Rates
from service.access.slots import OwnSlots, SharedSlots
from service.access.slots import SharedSlots
limited = Rates(1e-6, 500, slots=SharedSlots(Path(sys.argv[1])))
sys.stdin.readline()
print(*(sum(limited.wait(name) == 0 for _ in range(400)) for name in sys.argv[2:]))
"""
# Has the lock of the whole table, and says so.
HOLDING = """
import fcntl, sys
from pathlib import Path
from service.access.slots import SharedSlots
slots = SharedSlots(Path(sys.argv[1]))
fcntl.lockf(slots._file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def python(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_processes_that_share_slots_grant_no_more_and_no_less_than_one(tmp_path: Path) -> None:
    names = ["one", "two", "three"]
    with ExitStack() as stack:
        processes = [stack.enter_context(python(ASKING, tmp_path / "rates", *names)) for _ in range(4)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
        granted = [list(map(int, process.communicate(timeout=30)[0].split())) for process in processes]
    # Of 4 × 400 requests of each caller.
    assert [sum(column) for column in zip(*granted, strict=True)] == [500] * 3


def test_a_process_that_is_killed_takes_no_lock_with_it(tmp_path: Path) -> None:
    limited = Rates(1.0, 1, slots=SharedSlots(tmp_path / "rates"))
    waits: list[float] = []
    asking = threading.Thread(target=lambda: waits.append(limited.wait("one")))
    with python(HOLDING, tmp_path / "rates") as holding:
        assert holding.stdout is not None
        assert holding.stdout.readline() == "held\n"
        asking.start()
        asking.join(0.2)
        assert asking.is_alive()
        holding.kill()
        asking.join(10)
    assert waits == [0]


def test_shared_slots_forget_those_that_were_silent_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "CALLERS", slots.NEIGHBOURS)
    now = 0.0
    limited = Rates(1.0, 1, lambda: now, SharedSlots(tmp_path / "rates"))
    for number in range(slots.NEIGHBOURS + 1):
        now = 1 + number / 100
        assert limited.wait(str(number)) == 0
    assert limited.wait("8") > 0
    assert limited.wait("1") > 0
    assert limited.wait("0") == 0


def test_workers_count_together(tmp_path: Path) -> None:
    with operated(tmp_path, tmp_path / "log", RATE_LIMIT=0.001, RATE_BURST=5, WORKERS=2) as service:
        answers = []
        for _ in range(8):
            # Each on a connection of its own, which any worker may be given.
            with httpx.Client(base_url=service.client.base_url) as client:
                answers.append(client.get("/v2").status_code)
    assert answers == [200] * 5 + [429] * 3
