"""What a model's layers are to be judged by, and the statistics that need it."""

import math
from collections.abc import Iterator
from dataclasses import replace

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.routes.answers import ModelDetail
from tests import bundles
from tests.service.conftest import png, serving

MUTE = bundles.Tiny.random(5)
MUTE = replace(MUTE, weights=MUTE.weights | {"b1": np.where(np.arange(bundles.CHANNELS) < 3, -1e3, MUTE.weights["b1"])})
"""Three channels of its first layer put out nothing but zeros."""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with `mute` in two versions: the first says nothing of its layers, the second everything."""
    root = tmp_path_factory.mktemp("shelf")
    known = {
        "output_range": (0.0, None),
        "zero_is_dead": True,
        "normal_mean": 1 / math.sqrt(2 * math.pi),
        "normal_variance": 1 / 2 - 1 / (2 * math.pi),
    }
    sites = tuple(site.model_copy(update=known) for site in bundles.manifest("mute", 1, {"model.onnx": "0" * 64}).sites)
    bundles.publish(root, "mute", MUTE)
    bundles.publish(root, "mute", MUTE, sites=sites)
    with serving(root) as client:
        yield client


def described(client: httpx.Client, version: int) -> ModelDetail:
    response = client.get("/v1/models/mute", params={"version": version})
    detail = ModelDetail.model_validate(response.json())
    assert detail.model_dump(mode="json") == response.json()
    return detail


def test_a_model_says_what_its_layers_are_judged_by(judged: httpx.Client) -> None:
    detail = described(judged, 2)
    assert [layer.layer for layer in detail.layers] == ["act1", "layer1.0.act2"]
    for layer in detail.layers:
        assert (layer.activation, layer.channels) == ("relu", bundles.CHANNELS)
        assert layer.saturation is not None
        assert (layer.saturation.below, layer.saturation.above) == (0.0, None)
        assert layer.output_range == (0.0, None)
        assert layer.zero_is_dead is True
        assert layer.expected_mean_shift == pytest.approx(1 / math.pi, rel=1e-12)


def test_a_model_published_before_says_that_it_does_not_know(judged: httpx.Client) -> None:
    for layer in described(judged, 1).layers:
        assert layer.saturation is not None
        assert layer.output_range is layer.zero_is_dead is layer.expected_mean_shift is None


@pytest.mark.parametrize("version", [1, 2])
def test_silent_channels_and_mean_shift(judged: httpx.Client, pixels: NDArray[np.uint8], version: int) -> None:
    response = judged.post(
        "/v1/models/mute/classify",
        content=png(pixels[0]),
        params={"statistics": "channels", "version": version},
    )
    (image,) = response.json()["images"]
    activations = MUTE.activations(pixels[:1])
    assert (activations[0][0, :3] == 0).all()
    for layer, (x,) in zip(image["statistics"]["layers"], activations, strict=True):
        shift = (x.mean((1, 2)) ** 2).sum() / (x**2).mean((1, 2)).sum()
        assert layer["mean_shift"] == pytest.approx(shift, rel=1e-4)
        silent = (x == 0).all((1, 2))
        assert layer["silent_channels"] == (int(silent.sum()) if version == 2 else None)
        assert layer["channels"]["silent"] == (silent.tolist() if version == 2 else None)
