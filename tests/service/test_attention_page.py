"""The page in a real browser: a model with attention shows where it looked, any other shows nothing of the kind."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from models.manifest import ATTENTION, TensorSpec
from tests import bundles
from tests.browser import CHROMIUM, Browser, browser
from tests.service.conftest import serving
from tests.service.test_attention import LOGITS, SHAPE, attending

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
DRAWN = '!document.getElementById("answer").hidden && document.getElementById("message").textContent === ""'
LOOKED = '!document.getElementById("looked").hidden'
PIXEL = """(async () => {
  const image = document.getElementById("heat");
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  canvas.getContext("2d").drawImage(image, 0, 0);
  return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
})()"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """`looking` has attention in its version 2 alone; `tiny` has none."""
    root = tmp_path_factory.mktemp("shelf")
    outputs = (LOGITS, TensorSpec(name=ATTENTION, datatype="FP32", shape=SHAPE))
    bundles.publish(root, "looking", bundles.Tiny.random())
    bundles.publish(root, "looking", graph=attending(), outputs=outputs)
    bundles.publish(root, "tiny", bundles.Tiny.random())
    with serving(root) as client:
        yield client


@pytest.fixture(scope="module")
def page(client: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        page.open(str(client.base_url))
        page.until('document.getElementById("model")?.options.length === 2')
        yield page


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twice as wide as it is high, so that pre-processing cuts its sides off."""
    path = tmp_path_factory.mktemp("photo") / "wide.png"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def ask(page: Browser, model: str, version: str = "") -> None:
    """Choose a model, and a version of it."""
    for element, value in (("model", model), ("version", version)):
        page.value(
            f'{{ const chosen = document.getElementById("{element}"); chosen.value = "{value}";'
            ' chosen.dispatchEvent(new Event("change")); }'
        )
    # Once it says that it is classifying, the last answer is still shown.
    page.until(DRAWN)


def test_attention_is_drawn_for_the_models_and_versions_that_have_it(
    page: Browser, client: httpx.Client, photo: Path
) -> None:
    ask_first = {model["name"]: model["attention"] for model in client.get("/v1/models").json()["models"]}
    assert ask_first == {"looking": True, "tiny": False}
    assert not client.get("/v1/models/looking?version=1").json()["attention"]
    page.value('document.getElementById("model").value = "looking"')
    page.choose("#file", photo)
    page.until(DRAWN)
    assert page.value(LOOKED)

    content = photo.read_bytes()
    answer = client.post("/v1/models/looking/classify?attention=true", content=content).json()
    attention = answer["images"][0]["attention"]
    assert page.value('document.getElementById("heat").src') == attention["heat_map"]
    width, height = page.value('(() => { const i = document.getElementById("heat"); return [i.width, i.height]; })()')
    assert width == height > 0, "it shows what the network saw, which was cut to a square"
    assert len(page.value(PIXEL)) == 4 * 224 * 224

    weights = np.array(attention["weights"])
    row, column = np.unravel_index(weights.argmax(), weights.shape)
    assert page.value('document.getElementById("focus").textContent') == (
        f"Where it looked: the redder, the more. Most, {100 * weights.max():.1f} %, in row {row + 1} of 8, "
        f"column {column + 1} of 8."
    )

    ask(page, "looking", "version=1")
    assert not page.value(LOOKED)
    ask(page, "tiny")
    assert not page.value(LOOKED)
    ask(page, "looking")
    assert page.value(LOOKED)
    assert page.complaints == []
