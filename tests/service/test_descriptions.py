"""What the V2 protocol tells of models beside their answers."""

import time
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests import bundles
from tests.service.conftest import eventually, png, settled

STEPS = ("compute_input", "compute_infer", "compute_output")
IMAGE = png(np.zeros((3, bundles.SIZE, bundles.SIZE), np.uint8))


def statistics(client: httpx.Client, path: str = "/v2/models/tiny/versions/2/stats") -> dict[str, Any]:
    (statistics,) = client.get(path).json()["model_stats"]
    return dict(statistics)


def requests(counts: dict[str, Any]) -> int:
    return sum(int(counts["inference_stats"][key]["count"]) for key in ("success", "fail"))


def counted(client: httpx.Client, before: dict[str, Any], more: int) -> dict[str, Any]:
    """The statistics once so many more requests are in them: that is a moment after their answers."""
    eventually(lambda: requests(statistics(client)) >= requests(before) + more)
    return statistics(client)


def infer(client: httpx.Client, images: NDArray[np.uint8], path: str = "/v2/models/tiny") -> httpx.Response:
    given = {"name": "images", "shape": images.shape, "datatype": "UINT8", "data": images.ravel().tolist()}
    return client.post(f"{path}/infer", json={"inputs": [given]})


def grown(before: dict[str, Any], after: dict[str, Any], key: str) -> tuple[int, int]:
    changes = (after["inference_stats"][key][unit] - before["inference_stats"][key][unit] for unit in ("count", "ns"))
    return next(changes), next(changes)


def test_names(client: httpx.Client) -> None:
    assert client.get("/v2/models").json() == {"models": ["loud", "tiny"]}


@pytest.mark.parametrize("path", ["/v2/models/tiny", "/v2/models/tiny/versions/1"])
def test_configuration(client: httpx.Client, path: str) -> None:
    config = client.get(f"{path}/config").json()
    assert config == {
        "name": "tiny",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 4,
        "input": [{"name": "images", "data_type": "TYPE_FP32", "dims": [3, 8, 8]}],
        "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [3]}],
        "instance_group": [{"name": "tiny_0", "kind": "KIND_CPU", "count": 1, "gpus": []}],
        "parameters": {
            "execution_provider": {"string_value": "CPUExecutionProvider"},
            "precision": {"string_value": "fp32"},
        },
    }


def test_extensions_are_those_that_are_there(client: httpx.Client) -> None:
    assert client.get("/v2").json()["extensions"] == [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository",
        "model_repository(unload_dependents)",
        "statistics",
    ]


def test_work_is_counted(client: httpx.Client, pixels: NDArray[np.uint8]) -> None:
    before = settled(lambda: statistics(client))
    started = time.time()
    for images in (pixels[:3], pixels[:3], pixels[:1]):
        assert infer(client, images).status_code == 200
    wall_ns = (time.time() - started) * 1e9
    after = counted(client, before, 3)
    assert after["inference_count"] - before["inference_count"] == 7
    assert after["execution_count"] - before["execution_count"] == 3
    assert started * 1e3 - 1 <= after["last_inference"] <= time.time() * 1e3
    count, total_ns = grown(before, after, "success")
    assert count == 3
    assert 0 < total_ns < wall_ns
    parts_ns = 0
    for part in ("queue", *STEPS):
        count, ns = grown(before, after, part)
        assert count == 3
        assert ns >= 0
        parts_ns += ns
    assert parts_ns == total_ns
    for nothing in ("fail", "cache_hit", "cache_miss"):
        assert grown(before, after, nothing) == (0, 0)


def test_work_is_counted_by_the_number_of_images(client: httpx.Client, pixels: NDArray[np.uint8]) -> None:
    def runs() -> dict[int, int]:
        batches = statistics(client)["batch_stats"]
        assert [batch["batch_size"] for batch in batches] == sorted({batch["batch_size"] for batch in batches})
        assert all(len({batch[step]["count"] for step in STEPS}) == 1 for batch in batches)
        return {batch["batch_size"]: batch["compute_infer"]["count"] for batch in batches}

    before = settled(runs)
    for images in (pixels[:3], pixels[:3], pixels[:1]):
        infer(client, images)
    expected = before | {1: before.get(1, 0) + 1, 3: before.get(3, 0) + 2}
    eventually(lambda: runs() == expected)


def test_failed_requests_are_counted_apart(client: httpx.Client) -> None:
    before = settled(lambda: statistics(client))
    assert client.post("/v2/models/tiny/infer", content=b"{").status_code == 400
    after = counted(client, before, 1)
    count, ns = grown(before, after, "fail")
    assert count == 1
    assert ns > 0
    assert grown(before, after, "success") == (0, 0)
    assert after["inference_count"] == before["inference_count"]
    # As are those that `classify` refuses before any run.
    assert client.post("/v1/models/tiny/classify?attention=true", content=b"no image").status_code == 400
    assert grown(after, counted(client, after, 1), "fail")[0] == 1


def test_classified_images_are_counted_too(client: httpx.Client) -> None:
    before = settled(lambda: statistics(client))
    files = [("file", ("a.png", IMAGE))] * 5
    assert client.post("/v1/models/tiny/classify", files=files).status_code == 200
    after = counted(client, before, 1)
    assert after["inference_count"] - before["inference_count"] == 5
    # Each image waits for itself; what waits together may share a run, if that was measured to help.
    assert 2 <= after["execution_count"] - before["execution_count"] <= 5
    assert grown(before, after, "success")[0] == 1


def test_versions_are_counted_apart(client: httpx.Client, pixels: NDArray[np.uint8]) -> None:
    first = "/v2/models/tiny/versions/1"
    infer(client, pixels[:1], first)
    before = settled(lambda: (statistics(client, f"{first}/stats"), statistics(client)))
    infer(client, pixels[:1], first)
    expected = before[0]["inference_count"] + 1
    eventually(lambda: statistics(client, f"{first}/stats")["inference_count"] == expected)
    assert statistics(client) == before[1]
    both = client.get("/v2/models/tiny/stats").json()["model_stats"]
    assert [(entry["name"], entry["version"]) for entry in both] == [("tiny", "1"), ("tiny", "2")]
    every = client.get("/v2/models/stats").json()["model_stats"]
    assert [(entry["name"], entry["version"]) for entry in every] == [("loud", "1"), ("tiny", "1"), ("tiny", "2")]


@pytest.mark.parametrize("part", ["config", "stats"])
def test_unknown_models_and_versions(client: httpx.Client, part: str) -> None:
    for path in (f"/v2/models/absent/{part}", f"/v2/models/tiny/versions/9/{part}"):
        response = client.get(path)
        assert response.status_code == 404
        assert set(response.json()) == {"error"}
