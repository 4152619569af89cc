"""Constant traffic while versions are loaded, pinned, rolled back and relabelled: all is answered, and rightly."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest

from tests import bundles
from tests.service.processes import process

PIXELS = np.full((1, 3, bundles.SIZE, bundles.SIZE), 9, np.uint8)
IMAGES = {"name": "images", "shape": PIXELS.shape, "datatype": "UINT8", "data": PIXELS.ravel().tolist()}
DEFAULT = ""
ASKED = (DEFAULT, DEFAULT, "stable", "canary")
"""What each thread asks for: the default version, or that of a label."""


class Answer(NamedTuple):
    asked: str
    begun: float
    ended: float
    version: int


class Span(NamedTuple):
    version: int
    since: float
    until: float


class Truth:
    """When each version could be that of a name: from the beginning of one change to the end of the next."""

    def __init__(self) -> None:
        self._changes: defaultdict[str, list[tuple[int, float, float]]] = defaultdict(list)

    def change(self, name: str, make: Callable[[], int]) -> None:
        begun = time.monotonic()
        version = make()
        self._changes[name].append((version, begun, time.monotonic()))

    def spans(self, name: str) -> Iterator[Span]:
        changes = self._changes[name]
        for (version, begun, _), following in zip(changes, [*changes[1:], None], strict=False):
            yield Span(version, begun, following[2] if following else np.inf)

    def allows(self, answer: Answer) -> bool:
        return any(
            span.version == answer.version and span.since <= answer.ended and answer.begun <= span.until
            for span in self.spans(answer.asked)
        )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (1, 2):
        bundles.publish(tmp_path, "tiny", bundles.Tiny.random(seed))
    return tmp_path


def ask(url: str, asked: str, stop: threading.Event) -> list[Answer]:
    path = f"/v2/models/tiny/versions/{asked}/infer" if asked else "/v2/models/tiny/infer"
    answers = []
    with httpx.Client(base_url=url, timeout=30) as client:
        while not stop.is_set():
            begun = time.monotonic()
            response = client.post(path, json={"inputs": [IMAGES], "parameters": {"binary_data_output": False}})
            assert response.status_code == 200, response.text
            version = int(response.json()["model_version"])
            expected = bundles.Tiny.random(version).logits(PIXELS).ravel()
            np.testing.assert_allclose(response.json()["outputs"][0]["data"], expected, rtol=1e-4, atol=1e-4)
            answers.append(Answer(asked, begun, time.monotonic(), version))
    return answers


def change_everything(client: httpx.Client, root: Path, truth: Truth) -> None:
    def load(version: int | None = None) -> int:
        body = {} if version is None else {"parameters": {"version": version}}
        return int(client.post("/v2/repository/models/tiny/load", json=body).raise_for_status().json()["version"])

    def roll_back() -> int:
        return int(client.post("/v1/models/tiny/rollback").raise_for_status().json()["version"])

    def label(name: str, version: int) -> Callable[[], int]:
        def set_it() -> int:
            client.put(f"/v1/models/tiny/labels/{name}", json={"version": version}).raise_for_status()
            return version

        return set_it

    for newest in range(3, 6):
        bundles.publish(root, "tiny", bundles.Tiny.random(newest))
        truth.change(DEFAULT, load)
        truth.change("canary", label("canary", newest))
        truth.change("stable", label("stable", newest - 1))
        truth.change(DEFAULT, roll_back)
        truth.change(DEFAULT, lambda version=newest - 2: load(version))
        bundles.publish(root, "broken", graph=b"broken")
        assert client.post("/v2/repository/models/broken/load").status_code == 503
        client.get("/v2/models/tiny/versions/1/ready").raise_for_status()
        truth.change(DEFAULT, load)


def test_no_request_fails_and_each_names_a_version_that_was_served(root: Path) -> None:
    with process(root, MODEL_CONTROL="poll", POLL_SECONDS=3600) as address:
        url = f"http://{address}"
        truth, stop = Truth(), threading.Event()
        with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(len(ASKED)) as pool:
            truth.change(DEFAULT, lambda: 2)
            for name, version in (("stable", 1), ("canary", 2)):
                client.put(f"/v1/models/tiny/labels/{name}", json={"version": version}).raise_for_status()
                truth.change(name, lambda version=version: version)
            asking = [pool.submit(ask, url, asked, stop) for asked in ASKED]
            try:
                change_everything(client, root, truth)
            finally:
                stop.set()
            answers = [answer for task in asking for answer in task.result()]
    wrong = [answer for answer in answers if not truth.allows(answer)]
    assert wrong == []
    for name in set(ASKED):
        assert len({answer.version for answer in answers if answer.asked == name}) >= 4


def test_the_judge_of_answers_would_find_a_wrong_one() -> None:
    truth = Truth()
    truth.change(DEFAULT, lambda: 1)
    truth.change(DEFAULT, lambda: 2)
    now = time.monotonic()
    assert truth.allows(Answer(DEFAULT, now, now, 2))
    assert not truth.allows(Answer(DEFAULT, now + 1, now + 2, 1))
    assert not truth.allows(Answer(DEFAULT, now - 10, now - 9, 1))
    assert not truth.allows(Answer("stable", now, now, 2))
