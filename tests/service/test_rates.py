"""Limits on how often each caller may ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access import rates
from service.access.keys import new_key
from service.access.rates import Rates
from tests import bundles
from tests.service.operated import Operated, operated

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
    monkeypatch.setattr(rates, "CALLERS", 3)
    limited = Rates(1.0, 1, lambda: 0.0)
    assert [limited.wait(name) for name in "abcd"] == [0] * 4
    assert limited.wait("d") == 1.0
    assert limited.wait("a") == 0  # forgotten
    assert len(limited._full_at) == 3
