"""A network with attention: trained, published, and asked where it looked, on every way there is."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from models.manifest import ATTENTION
from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from service.heat_map import HOT, STRONGEST
from tests.service.conftest import eventually, png
from tests.service.processes import ROOT, process
from training.data import digits
from training.data.sources import DataConfig
from training.export.published import PublishedClassifier
from training.publication.bundle import Publication, publish, restore_classifier
from training.publication.refresh import refresh
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig
from training.run import Run, RunConfig

DATA = digits.load()
PIXELS = DATA.held_out.pixels[:3]
PHOTOS = [png(pixels.repeat(3, 0)) for pixels in PIXELS]
CLASSIFY = "/v1/models/looking/classify"
INFER = "/v2/models/looking/infer"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    network = NetworkConfig("resnet8", "relu", classes=10, channels=1, head="attention")
    config = RunConfig(network, DataConfig(), Recipe(epochs=5, batch_size=64))
    Run(folder / "looking", config).train(DATA, torch.device("cpu"), resume=False)
    publish(folder / "looking", ModelRepository(folder / "shelf"), "looking", half=True)
    shutil.copytree(SHIPPED_MODELS / "digits", folder / "shelf" / "digits")
    return folder


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[httpx.Client]:
    with (
        process(home / "shelf", STATISTICS_SAMPLE=1) as address,
        httpx.Client(base_url=f"http://{address}", timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def expected(home: Path) -> NDArray[np.float32]:
    """PyTorch's weights of the photos."""
    run = Run(home / "looking", RunConfig.read(home / "looking"))
    published = PublishedClassifier(restore_classifier(run, DATA))
    with torch.no_grad():
        _, weights = published(torch.from_numpy(PIXELS).float())
    return weights.numpy()  # type: ignore[no-any-return]


def form(photos: list[bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (f"{index}.png", photo)) for index, photo in enumerate(photos)]


def picture(attention: dict[str, Any]) -> NDArray[np.float64]:
    head, _, content = attention["heat_map"].partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(content)))).astype(np.float64)


def test_the_manifest_names_both_outputs_and_the_network_learned(home: Path) -> None:
    manifest = ModelRepository(home / "shelf").open("looking").manifest
    assert [spec.name for spec in manifest.outputs] == ["logits", ATTENTION]
    assert manifest.attention is not None
    assert manifest.attention.shape == (-1, 2, 2)
    assert manifest.metrics is not None
    assert manifest.metrics.accuracy > 0.9
    assert manifest.half is not None


def test_classify_says_where_it_looked(client: httpx.Client, expected: NDArray[np.float32]) -> None:
    answer = client.post(CLASSIFY, params={"attention": True, "statistics": "layers"}, files=form(PHOTOS))
    assert answer.status_code == 200, answer.text
    for image, weights, pixels in zip(answer.json()["images"], expected, PIXELS, strict=True):
        attention = image["attention"]
        assert np.abs(np.array(attention["weights"]) - weights).max() <= 1e-5
        assert (attention["height"], attention["width"]) == weights.shape
        assert abs(np.sum(attention["weights"]) - 1) <= 1e-5
        assert image["statistics"]["layers"]
        # At the corners a picture shows the weights of the positions that lie there, undiluted.
        drawn = picture(attention)
        assert drawn.shape == (224, 224, 3)
        for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            heat = STRONGEST * weights[y, x] / weights.max()
            assert np.abs(drawn[y, x] - ((1 - heat) * pixels[0, y, x] + heat * np.array(HOT))).max() <= 2


def test_an_answer_is_the_same_on_the_short_and_the_long_way(client: httpx.Client) -> None:
    bodies = []
    for way in ({}, {"Origin": "http://elsewhere.example"}):
        headers = {"Content-Type": "image/png", **way}
        answer = client.post(CLASSIFY, params={"attention": True}, content=PHOTOS[0], headers=headers)
        bodies.append(answer.json() | {"timing": None})
    assert bodies[0] == bodies[1]
    encoded = {"image": base64.b64encode(PHOTOS[0]).decode(), "attention": True}
    assert client.post(CLASSIFY, json=encoded).json()["images"][0]["attention"] == bodies[0]["images"][0]["attention"]


def test_nothing_is_said_where_it_is_not_asked_for_and_a_bad_image_fails_alone(client: httpx.Client) -> None:
    assert client.post(CLASSIFY, files=form(PHOTOS[:1])).json()["images"][0]["attention"] is None
    answer = client.post(CLASSIFY, params={"attention": True}, files=form([PHOTOS[0], b"no image", PHOTOS[1]]))
    first, second, third = answer.json()["images"]
    assert second.keys() == {"file", "error"}
    assert first["attention"] != third["attention"]


def test_a_model_without_attention_refuses_in_words(client: httpx.Client) -> None:
    answer = client.post(CLASSIFY.replace("looking", "digits"), params={"attention": True}, content=PHOTOS[0])
    assert answer.status_code == 400
    assert "'digits' has no attention" in answer.json()["error"]


def test_v2_has_the_output_among_its_own(client: httpx.Client, expected: NDArray[np.float32]) -> None:
    outputs = client.get("/v2/models/looking").json()["outputs"]
    assert outputs[1] == {"name": ATTENTION, "datatype": "FP32", "shape": [-1, 2, 2]}
    tensor = {"name": "images", "shape": [3, 1, 8, 8], "datatype": "FP32", "data": PIXELS.ravel().tolist()}
    named = [None, [{"name": ATTENTION}], [{"name": ATTENTION}, {"name": "statistics.mean"}]]
    for wanted, names in zip(named, (["logits", ATTENTION], [ATTENTION], [ATTENTION, "statistics.mean"]), strict=True):
        answer = client.post(INFER, json={"inputs": [tensor]} | ({"outputs": wanted} if wanted else {}))
        given = {output["name"]: output for output in answer.json()["outputs"]}
        assert list(given) == names
        assert given[ATTENTION]["shape"] == [3, 2, 2]
        assert np.abs(np.array(given[ATTENTION]["data"]) - expected.ravel()).max() <= 1e-5
    ranked = {"name": ATTENTION, "parameters": {"classification": 1}}
    answer = client.post(INFER, json={"inputs": [tensor], "outputs": [ranked]})
    best = [int(entry.split(":")[1]) for entry in answer.json()["outputs"][0]["data"]]
    assert best == expected.reshape(3, -1).argmax(1).tolist()


def test_watched_traffic_of_a_model_with_attention_is_counted(client: httpx.Client) -> None:
    def images() -> int:
        return int(client.get("/v1/models/looking/statistics").json()["images"])

    before = images()
    assert client.post(CLASSIFY, params={"attention": True}, files=form(PHOTOS)).status_code == 200
    eventually(lambda: images() >= before + len(PHOTOS))


def test_the_client_writes_pictures(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "seven.png").write_bytes(PHOTOS[0])
    arguments = ["classify", "seven.png", "--model", "looking", "--attention", "maps", "--url", str(client.base_url)]
    done = subprocess.run(
        [sys.executable, "-m", "service", "client", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"][0]["attention"]["height"] == 2
    with Image.open(tmp_path / "maps" / "seven.png.attention.png") as written:
        assert written.size == (224, 224)


def test_a_refreshed_model_has_its_attention_still(home: Path) -> None:
    publication: Publication = refresh(ModelRepository(home / "shelf"), "looking", DataConfig())
    manifest = ModelRepository(home / "shelf").open("looking", publication.version).manifest
    assert manifest.attention is not None
    assert publication.parity <= 1e-5
