"""Of the versions that requests named those stay that were used last, in whichever process, and in all alike."""

from collections import Counter
from pathlib import Path

import httpx
import pytest

from service.control.course import Course
from tests import bundles
from tests.service.conftest import eventually
from tests.service.operated import Operated, operated
from tests.service.test_workers import IMAGE, fresh


def loaded(answer: httpx.Response) -> dict[int, int]:
    """Images by version, of those that are loaded where the answer comes from."""
    return {int(counts["version"]): counts["inference_count"] for counts in answer.json()["model_stats"]}


def use(service: Operated, version: int, times: int) -> None:
    """Have a version answer, the so manieth time, whoever does, and wait until that is known."""

    def images() -> int:
        return loaded(service.client.get("/v2/models/tiny/stats")).get(version, 0)

    answer = httpx.post(f"{service.url}/v1/models/tiny/classify?version={version}", content=IMAGE, timeout=30)
    assert answer.json()["version"] == version
    eventually(lambda: images() == times)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_used_least_recently_goes(tmp_path: Path, workers: int) -> None:
    for seed in range(5):
        bundles.publish(tmp_path / "shelf", "tiny", bundles.Tiny.random(seed))
    with operated(tmp_path / "shelf", tmp_path / "log", WORKERS=workers, MAX_VERSIONS=2) as service:
        uses: Counter[int] = Counter()
        for version, left in ((1, {1}), (2, {1, 2}), (1, {1, 2}), (3, {1, 3}), (1, {1, 3}), (4, {1, 4}), (2, {2, 4})):
            uses[version] += 1
            use(service, version, uses[version])
            for answer in fresh(service, "GET", "/v2/models/tiny/stats"):
                assert {*loaded(answer)} == {*left, 5}


@pytest.mark.parametrize(("most", "left"), [(0, set()), (1, {2}), (2, {2, 3}), (3, {1, 2, 3})])
def test_as_many_stay_as_may(most: int, left: set[int]) -> None:
    used = {1: 10**15, 3: 2 * 10**15}
    course = Course("tiny")
    for version in (1, 3, 2):
        course.name_version(version, 3, lambda _, version: used.get(version, 0))
    course.name_version(2, most, lambda _, version: used.get(version, 0))
    assert {*course.named} == left
