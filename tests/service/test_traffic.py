"""What the service says about its own traffic, over HTTP."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from models.diagnosis.rules import RULES
from models.statistics.archive import pack
from service.monitor.answers import BaselineAnswer, DiagnosisAnswer, StatisticsAnswer
from tests import bundles
from tests.service import watched
from tests.service.conftest import eventually, png, serving

MODEL = "/v1/models/tiny"


def sampled(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("reslens_sampled_images_total{"))


def send(client: httpx.Client, pixels: np.ndarray) -> None:
    """Half of the images through each protocol."""
    half = len(pixels) // 2
    files = [("file", (str(index), png(image))) for index, image in enumerate(pixels[:half])]
    assert client.post(f"{MODEL}/classify", files=files).status_code == 200
    tensor = pixels[half:]
    body = {"inputs": [{"name": "images", "datatype": "UINT8", "shape": tensor.shape, "data": tensor.ravel().tolist()}]}
    assert client.post("/v2/models/tiny/infer", json=body).status_code == 200


def statistics(client: httpx.Client, **params: str) -> StatisticsAnswer:
    response = client.get(f"{MODEL}/statistics", params=params)
    assert response.status_code == 200, response.text
    return StatisticsAnswer.model_validate(response.json())


def test_sampled_traffic_of_both_protocols_is_counted_as_it_was(tmp_path: Path) -> None:
    pixels = watched.images(24)
    bundles.publish(tmp_path, model=watched.MODEL)
    with serving(tmp_path, statistics_sample=1) as client:
        send(client, pixels)
        eventually(lambda: sampled(client) == 24)
        answer = statistics(client, window="5m")
        counted = 'reslens_inference_seconds_count{model="tiny",statistics="false"} 2.0'
        eventually(lambda: counted in client.get("/metrics").text)
    assert (answer.images, answer.source, answer.window, len(answer.replicas)) == (24, "memory", "5m", 1)
    assert answer.start is not None
    assert answer.end is not None
    assert answer.start < answer.end
    for layer, activation in zip(answer.layers, watched.MODEL.activations(pixels), strict=True):
        means = activation.mean((1, 2, 3))
        found = layer.scalars["mean"]
        assert found.count == 24
        np.testing.assert_allclose([found.mean, found.std], [means.mean(), means.std(ddof=1)], rtol=1e-4)
        median = found.quantiles["p50"]
        # The bins are a quarter of an octave.
        assert median is not None
        assert abs(np.log2(median / np.sort(means)[11])) <= 0.25
        assert layer.never_fired == (activation.max((0, 2, 3)) <= 0).sum()
        assert layer.maximum == pytest.approx(activation.max(), rel=1e-5)
        assert (layer.minimum, layer.not_finite_channels, layer.not_finite_images) == (None, 0, 0)
        assert layer.rank is not None
        assert 1 <= layer.rank <= bundles.CHANNELS
        assert layer.baseline is None
    classes = watched.MODEL.logits(pixels).argmax(1)
    assert [found.images for found in answer.predicted] == np.bincount(classes, minlength=3).tolist()
    assert [found.share for found in answer.predicted] == (np.bincount(classes, minlength=3) / 24).tolist()
    assert "without a baseline" in answer.baseline_reason


def test_statistics_that_are_asked_for_are_not_counted(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    with serving(tmp_path, statistics_sample=0) as client:
        for _ in range(3):
            client.post(f"{MODEL}/classify", content=png(watched.images(1)[0]), params={"statistics": "layers"})
        answer = statistics(client)
    assert (answer.images, answer.start, answer.replicas) == (0, None, [])
    assert answer.layers[0].scalars["mean"].mean is None
    assert answer.layers[0].rank is None
    assert answer.predicted[0].share is None


def test_about_a_share_of_the_requests_is_counted(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    with serving(tmp_path, statistics_sample=0.5) as client:
        for image in watched.images(200):
            client.post(f"{MODEL}/classify", content=png(image))
        # Seven standard deviations.
        eventually(lambda: 50 <= sampled(client) <= 150)


@pytest.mark.parametrize("path", ["statistics", "diagnosis"])
def test_an_unknown_window_lists_all(client: httpx.Client, path: str) -> None:
    response = client.get(f"{MODEL}/{path}", params={"window": "2h"})
    assert response.status_code == 400
    assert response.json() == {"error": "unknown window '2h'; choose from 1m, 5m, 15m, 1h, 6h, 1d, 7d, 30d"}


@pytest.mark.parametrize("path", ["statistics", "diagnosis"])
def test_a_long_window_without_a_history_says_what_to_do(client: httpx.Client, path: str) -> None:
    response = client.get(f"{MODEL}/{path}", params={"window": "7d"})
    assert response.status_code == 404
    assert "set RESLENS_HISTORY_URL, or choose from 1m, 5m, 15m, 1h" in response.json()["error"]


@pytest.mark.parametrize("path", ["statistics", "diagnosis", "baseline"])
def test_unknown_models_and_versions(client: httpx.Client, path: str) -> None:
    assert client.get(f"/v1/models/absent/{path}").status_code == 404
    assert client.get(f"{MODEL}/{path}", params={"version": 99}).status_code == 404
    assert client.get(f"{MODEL}/{path}", params={"version": 0}).status_code == 422


@pytest.mark.parametrize("asked", [{}, {"window": "5m"}])
def test_without_traffic_every_rule_says_how_much_it_needs(tmp_path: Path, asked: dict[str, str]) -> None:
    watched.publish(tmp_path)
    with serving(tmp_path) as client:
        found = DiagnosisAnswer.model_validate(client.get(f"{MODEL}/diagnosis", params=asked).json())
    assert (found.confirmed, found.judged, found.current.images, found.current.findings) == ([], [], 0, [])
    reasons = {missing.rule: missing.reason for missing in found.current.unjudged}
    assert reasons.keys() == RULES.keys()
    assert reasons["dead_channels"] == "not enough data: 0 of 3000 images"


# Baselines


def test_the_baseline_has_the_shape_of_statistics_and_stands_beside_them(tmp_path: Path) -> None:
    watched.publish(tmp_path)
    with serving(tmp_path, statistics_sample=1) as client:
        send(client, watched.images(10))
        eventually(lambda: sampled(client) == 10)
        usual = BaselineAnswer.model_validate(client.get(f"{MODEL}/baseline").json())
        answer = statistics(client, window="1h")
    assert (usual.images, usual.calibrated_with, answer.baseline_images, answer.baseline_reason) == (600, 300, 600, "")
    means = watched.MODEL.activations(watched.images(600, seed=100))[0].mean((1, 2, 3))
    assert usual.layers[0].scalars["mean"].mean == pytest.approx(means.mean(), rel=1e-4)
    assert [layer.baseline for layer in answer.layers] == usual.layers
    assert [block.baseline for block in answer.blocks] == usual.blocks
    assert answer.prediction.baseline == usual.prediction
    assert [found.baseline for found in answer.predicted] == usual.predicted
    assert (answer.judged, usual.judged) == (10, 0)


@pytest.mark.parametrize(
    ("baseline", "reason"),
    [
        (None, "was published without a baseline"),
        (b"no archive", "the baseline cannot be read"),
        (pack({"count": np.arange(3)}), "has the format 1, expected 2: publish the model again"),
    ],
)
def test_a_model_whose_baseline_cannot_be_used_is_served_and_says_why(
    tmp_path: Path, baseline: bytes | None, reason: str
) -> None:
    if baseline is None:
        bundles.publish(tmp_path)
    else:
        watched.publish(tmp_path, baseline)
    with serving(tmp_path) as client:
        response = client.get(f"{MODEL}/baseline")
        assert (response.status_code, reason in response.json()["error"]) == (404, True)
        found = DiagnosisAnswer.model_validate(client.get(f"{MODEL}/diagnosis").json())
        assert (found.baseline_images, reason in found.baseline_reason) == (None, True)
        asked = {"statistics": "layers"}
        image = client.post(f"{MODEL}/classify", content=png(watched.images(1)[0]), params=asked).json()["images"][0]
        assert image["outlier"] is None
        assert image["prediction"]["entropy"] > 0


def test_the_baseline_of_another_graph_is_refused(tmp_path: Path) -> None:
    watched.publish(tmp_path / "first")
    content = (tmp_path / "first" / "tiny" / "1" / "baseline.npz").read_bytes()
    watched.publish(tmp_path / "second", content, bundles.Tiny.random(5))
    with serving(tmp_path / "second") as client:
        response = client.get(f"{MODEL}/baseline")
    assert response.status_code == 404
    assert "was computed with another graph" in response.json()["error"]


# Single images


def test_each_image_is_judged_by_the_baseline(tmp_path: Path) -> None:
    watched.publish(tmp_path)
    usual, flat = watched.images(1, seed=7)[0], np.zeros((3, 8, 8), np.uint8)
    with serving(tmp_path) as client:
        files = [("file", png(usual)), ("file", b"no image"), ("file", png(flat))]
        response = client.post(f"{MODEL}/classify", files=files, params={"statistics": "layers"})
        first, broken, second = response.json()["images"]
        plain = client.post(f"{MODEL}/classify", content=png(usual)).json()["images"][0]
    assert set(broken) == {"file", "error"}
    assert plain["outlier"] is plain["prediction"] is None
    assert second["outlier"]["p"] == pytest.approx(1 / 301)
    assert first["outlier"]["p"] > 0.01
    for image in (first, second):
        assert image["outlier"]["calibrated_with"] == 300
        assert list(image["outlier"]["layers"]) == ["act1", "layer1.0.act2"]
        assert set(image["outlier"]["head"]) == {"energy", "react", "mahalanobis"}
    p = np.sort(watched.MODEL.probabilities(usual[None])[0])
    expected = {
        "entropy": -(p * np.log(p)).sum(),
        "margin": p[-1] - p[-2],
        "energy": -np.log(np.exp(watched.MODEL.logits(usual[None])).sum()),
    }
    assert first["prediction"] == pytest.approx(expected, rel=1e-4)
