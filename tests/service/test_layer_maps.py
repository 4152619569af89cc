"""The activation maps of one layer."""

import base64
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from models.repository import ModelRepository
from service.mosaic import RED, mosaic
from service.routes.answers import LayerMap
from service.runtime.maps import MAX_SESSIONS, LayerMaps
from tests import bundles
from tests.service import watched
from tests.service.conftest import png, serving

PATH = "/v1/models/tiny/layers/{}/map"
PIXELS = watched.images(1, seed=3)


@pytest.mark.parametrize(("layer", "index"), [("act1", 0), ("layer1.0.act2", 1)])
def test_numbers_are_those_of_the_layer(client: httpx.Client, tiny: bundles.Tiny, layer: str, index: int) -> None:
    expected = tiny.activations(PIXELS)[index][0]
    path = PATH.format(layer)
    response = client.post(path, content=png(PIXELS[0]), params={"format": "json"})
    answer = LayerMap.model_validate(response.json())
    assert answer.model_dump() == response.json()
    assert (answer.model, answer.version, answer.layer) == ("tiny", 2, layer)
    assert (answer.channels, answer.height, answer.width) == (list(range(16)), 8, 8)
    np.testing.assert_allclose(np.array(answer.values, float), expected, rtol=1e-4, atol=1e-5)
    one = client.post(path, content=png(PIXELS[0]), params={"format": "json", "channel": 3}).json()
    assert one["channels"] == [3]
    assert one["values"] == [response.json()["values"][3]]


def test_the_three_ways_to_send_an_image_give_the_same_picture(client: httpx.Client) -> None:
    content = png(PIXELS[0])
    answers = [
        client.post(PATH.format("act1"), content=content),
        client.post(PATH.format("act1"), files={"file": content}),
        client.post(PATH.format("act1"), json={"image": base64.b64encode(content).decode()}),
    ]
    assert [answer.headers["content-type"] for answer in answers] == ["image/png"] * 3
    assert len({answer.content for answer in answers}) == 1


def test_the_picture_shows_the_channels_in_a_grid(client: httpx.Client, tiny: bundles.Tiny) -> None:
    expected = tiny.activations(PIXELS)[0][0]
    response = client.post(PATH.format("act1"), content=png(PIXELS[0]))
    picture = np.asarray(Image.open(BytesIO(response.content)))
    # 4×4 tiles of 8×8 positions, each 4×4 pixels large, one pixel between tiles.
    assert picture.shape == (4 * 33 - 1, 4 * 33 - 1, 3)
    for channel in range(16):
        top, left = channel // 4 * 33, channel % 4 * 33
        grey = picture[top : top + 32 : 4, left : left + 32 : 4, 0]
        np.testing.assert_allclose(grey, (expected[channel] - expected.min()) / np.ptp(expected) * 255, atol=1)
    alone = client.post(PATH.format("act1"), content=png(PIXELS[0]), params={"channel": 0})
    assert Image.open(BytesIO(alone.content)).size == (32, 32)


def test_what_is_not_finite_is_red_and_constants_are_black() -> None:
    values = np.array([[[np.nan, np.inf], [0, 1]]], np.float32)
    picture = np.asarray(Image.open(BytesIO(mosaic(values))))
    assert [tuple(picture[0, 0]), tuple(picture[0, 16]), picture[16, 0].tolist(), picture[16, 16].tolist()] == [
        RED,
        RED,
        [0] * 3,
        [255] * 3,
    ]
    assert not np.asarray(Image.open(BytesIO(mosaic(np.full((1, 4, 4), 7, np.float32))))).any()


@pytest.mark.parametrize(
    ("path", "params", "status", "complaint"),
    [
        (PATH.format("act9"), {}, 404, "model 'tiny' has no layer 'act9'; choose from act1, layer1.0.act2"),
        (PATH.format("act1"), {"channel": 16}, 400, "layer 'act1' has no channel 16; choose from 0…15"),
        (PATH.format("act1"), {"channel": -1}, 422, "greater than or equal to 0"),
        (PATH.format("act1"), {"format": "gif"}, 422, "'png' or 'json'"),
        (PATH.format("act1"), {"version": 9}, 404, "has no version 9"),
        ("/v1/models/absent/layers/act1/map", {}, 404, "unknown model 'absent'"),
    ],
)
def test_wrong_requests(client: httpx.Client, path: str, params: dict[str, str], status: int, complaint: str) -> None:
    response = client.post(path, content=png(PIXELS[0]), params=params)
    assert response.status_code == status
    assert complaint in response.json()["error"]


def test_no_image_and_too_many(client: httpx.Client) -> None:
    assert client.post(PATH.format("act1"), content=b"text").status_code == 422
    assert client.post(PATH.format("act1"), json={}).status_code == 400
    encoded = base64.b64encode(png(PIXELS[0])).decode()
    response = client.post(PATH.format("act1"), json={"images": [encoded] * 2})
    assert (response.status_code, "send at most 1" in response.json()["error"]) == (400, True)
    assert client.post(PATH.format("act1"), files=[("file", png(PIXELS[0]))] * 2).status_code == 400


def test_a_graph_that_is_gone_is_said(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    with serving(tmp_path) as client:
        (tmp_path / "tiny" / "1" / "model.onnx").unlink()
        response = client.post(PATH.format("act1"), content=png(PIXELS[0]))
    assert response.status_code == 503
    assert "model.onnx is missing" in response.json()["error"]


def test_few_sessions_are_kept(tmp_path: Path) -> None:
    models = []
    for seed in range(3):
        watched.publish(tmp_path, b"", bundles.Tiny.random(seed))
        bundle = ModelRepository(tmp_path).open("tiny", seed + 1)
        models.append(watched.LoadedModel(bundle, watched.CPU, threads=1))
    maps = LayerMaps(ModelRepository(tmp_path), threads=1)
    tensor = PIXELS.astype(np.float32)
    for _ in range(2):
        for seed, model in enumerate(models):
            for index, layer in enumerate(("act1", "layer1.0.act2")):
                expected = bundles.Tiny.random(seed).activations(PIXELS)[index][0]
                np.testing.assert_allclose(maps.map(model, layer, tensor), expected, rtol=1e-4, atol=1e-5)
                assert len(maps._sessions) <= MAX_SESSIONS
