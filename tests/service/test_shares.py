"""A share of what names no version: drawn by the id of the request, everywhere alike, and over with what it tries."""

import contextlib
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.control.serving import Serving
from service.runtime.shares import Shares
from tests import bundles
from tests.service.conftest import eventually, png, serving
from tests.service.processes import process

PIXELS = np.full((1, 3, bundles.SIZE, bundles.SIZE), 9, np.uint8)
IMAGES = {"name": "images", "shape": PIXELS.shape, "datatype": "UINT8", "data": PIXELS.ravel().tolist()}
INFER, CLASSIFY = "/v2/models/tiny/infer", "/v1/models/tiny/classify"
CANARY = "/v1/models/tiny/labels/canary"
LOAD = "/v2/repository/models/tiny/load"
EXPECTED = {version: bundles.Tiny.random(version).logits(PIXELS).ravel() for version in (1, 2, 3)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (1, 2, 3):
        bundles.publish(tmp_path, "tiny", bundles.Tiny.random(seed))
    return tmp_path


def inferred(client: httpx.Client, request_id: str = "") -> int:
    """The version that answers, whose logits must be its own."""
    headers = {"X-Request-Id": request_id} if request_id else {}
    response = client.post(INFER, json={"inputs": [IMAGES]}, headers=headers)
    assert response.status_code == 200, response.text
    version = int(response.json()["model_version"])
    np.testing.assert_allclose(response.json()["outputs"][0]["data"], EXPECTED[version], rtol=1e-4, atol=1e-4)
    return version


def classified(client: httpx.Client, request_id: str) -> int:
    content = png(np.zeros((3, bundles.SIZE, bundles.SIZE), np.uint8))
    answer = client.post(CLASSIFY, content=content, headers={"X-Request-Id": request_id})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["version"])


def shares(**labels: tuple[int, float]) -> Shares | None:
    versions = {label: version for label, (version, _) in labels.items()}
    given = {label: share for label, (_, share) in labels.items()}
    return Shares.of(Serving(name="tiny", versions=(1, 2, 3), default=3, labels=versions, shares=given))


@pytest.mark.parametrize("ids", ["{}", "order-{}", "00000000000000000000000{}"])
def test_the_share_of_many_requests_is_the_one_that_was_given(ids: str) -> None:
    drawn = shares(canary=(1, 5.0), other=(2, 20.0))
    assert drawn is not None
    counts = Counter(drawn.draw(ids.format(number)) for number in range(20_000))
    # Four standard deviations of a binomial draw.
    for version, share in ((1, 0.05), (2, 0.2), (None, 0.75)):
        assert abs(counts[version] / 20_000 - share) < 4 * np.sqrt(share * (1 - share) / 20_000)


def test_a_share_that_grows_keeps_those_that_it_had() -> None:
    names = [f"request-{number}" for number in range(2000)]
    had: set[str] = set()
    for share in (1, 5, 50, 100):
        drawn = shares(canary=(1, share))
        assert drawn is not None
        has = {name for name in names if drawn.draw(name) == 1}
        assert has >= had
        had = has
    assert had == set(names)


def test_what_is_not_loaded_has_no_share() -> None:
    assert shares() is None
    assert Shares.of(Serving(name="tiny", versions=(3,), default=3, labels={"canary": 1}, shares={"canary": 5})) is None


def test_a_share_is_drawn_by_the_id_answered_counted_and_ended(root: Path) -> None:
    names = [f"id-{number}" for number in range(60)]
    with serving(root, history_url="", statistics_sample=1) as client:
        assert client.put(CANARY, json={"version": 1, "share": 30}).json()["shares"] == {"canary": 30}
        found = {name: inferred(client, name) for name in names}
        counts = Counter(found.values())
        assert set(counts) == {1, 3}
        # The same id, the same version, on every way in; and what names a version gets that.
        assert {name: classified(client, name) for name in names[:10]} == {name: found[name] for name in names[:10]}
        first = next(name for name in names if found[name] == 1)
        named = client.post(f"{CLASSIFY}?version=3", content=png(PIXELS[0]), headers={"X-Request-Id": first})
        assert named.json()["version"] == 3
        # What tells of a model tells of its default, whoever asks.
        assert client.get("/v1/models/tiny", headers={"X-Request-Id": first}).json()["version"] == 3
        # Counted by version, also where Prometheus looks, and watched by version.
        done = {stats["version"]: stats["inference_count"] for stats in stats_of(client)}
        again = Counter(found[name] for name in names[:10])
        assert done == {"1": counts[1] + again[1], "3": counts[3] + again[3] + 1}
        eventually(lambda: f'reslens_answered_total{{model="tiny",version="1"}} {done["1"]}.0' in metrics(client))
        eventually(lambda: watched(client, 1) == done["1"])
        # Another service that reads the repository draws alike.
        with serving(root, history_url="") as another:
            assert {name: inferred(another, name) for name in names[:20]} == {name: found[name] for name in names[:20]}
        assert client.put(CANARY, json={"version": 1}).json()["shares"] == {}
        assert {inferred(client, name) for name in names} == {3}


def stats_of(client: httpx.Client) -> list[dict[str, int | str]]:
    stats: list[dict[str, int | str]] = client.get("/v2/models/tiny/stats").json()["model_stats"]
    return stats


def metrics(client: httpx.Client) -> str:
    return client.get("/metrics").text


def watched(client: httpx.Client, version: int) -> int:
    images: int = client.get(f"/v1/models/tiny/statistics?version={version}").json()["images"]
    return images


@pytest.mark.parametrize("end", ["promotion", "rollback", "removal"])
def test_a_share_ends_with_what_it_tries(root: Path, end: str) -> None:
    with serving(root, history_url="") as client:
        client.put(CANARY, json={"version": 2, "share": 100})
        assert {inferred(client) for _ in range(5)} == {2}
        if end == "promotion":
            client.post(LOAD, json={"parameters": {"version": 1}}).raise_for_status()
        elif end == "rollback":
            client.post("/v1/models/tiny/rollback").raise_for_status()
        else:
            client.delete(CANARY).raise_for_status()
        default = client.get("/v1/models/tiny").json()["version"]
        assert default == {"promotion": 1, "rollback": 2, "removal": 3}[end]
        assert {inferred(client) for _ in range(5)} == {default}
        assert client.get("/v1/models/tiny/labels").json()["shares"] == {}


def test_shares_are_at_most_everything(root: Path) -> None:
    with serving(root, history_url="") as client:
        client.put(CANARY, json={"version": 2, "share": 60}).raise_for_status()
        refused = client.put("/v1/models/tiny/labels/other", json={"version": 1, "share": 41})
        assert refused.status_code == 400
        assert "all labels together may have 0…100 %" in refused.json()["error"]
        assert client.put("/v1/models/tiny/labels/other", json={"version": 1, "share": 40}).status_code == 200
        assert 3 not in {inferred(client) for _ in range(20)}


def test_no_request_is_lost_while_shares_change_on_all_workers_and_replicas(root: Path) -> None:
    """Two workers are asked, another service that polls the same repository follows."""
    names = [f"id-{number}" for number in range(16)]
    stop = threading.Event()

    def ask(client: httpx.Client) -> set[int]:
        seen = set()
        with httpx.Client(base_url=client.base_url, timeout=60) as own:
            while not stop.is_set():
                seen.add(inferred(own))
        return seen

    with contextlib.ExitStack() as stack:
        address = stack.enter_context(process(root, WORKERS=2))
        closing = {"Connection": "close"}
        client = stack.enter_context(httpx.Client(base_url=f"http://{address}", timeout=60, headers=closing))
        follower = stack.enter_context(serving(root, history_url="", model_control="poll", poll_seconds=0.2))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        stack.callback(stop.set)
        asking = [pool.submit(ask, each) for each in (client, follower)]
        client.put(CANARY, json={"version": 1, "share": 50}).raise_for_status()
        found = {name: inferred(client, name) for name in names}
        assert set(found.values()) == {1, 3}
        # Each over a connection of its own: whichever worker has it, it says the same.
        assert {name: inferred(client, name) for name in names} == found
        eventually(lambda: {name: inferred(follower, name) for name in names} == found)
        client.put(CANARY, json={"version": 2, "share": 50}).raise_for_status()
        client.post(LOAD, json={"parameters": {"version": 2}}).raise_for_status()
        assert {inferred(client, name) for name in names} == {2}
        eventually(lambda: {inferred(follower, name) for name in names} == {2})
        stop.set()
        assert [task.result() for task in asking] == [{1, 2, 3}] * 2
