"""Pre-processing is one definition: training, evaluation, baseline and a service on a socket see the same bits."""

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import parser
from PIL import Image
from scipy.special import log_softmax

from models.manifest import ActivationSite, ModelManifest, Preprocessing, TensorSpec
from tests import bundles
from tests.service.processes import process
from tests.service.test_odd_images import binary
from tests.training.test_reading import FILES as KINDS
from tests.training.test_reading import photograph
from training.data.folder import list_images
from training.data.images import DataSet
from training.data.reading import read
from training.loop.trainer import Trainer
from training.publication.bundle import measure
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig

SIDE = 24
COLOUR = Preprocessing(channels=3, height=SIDE, width=SIDE, resize=28)
GREY = COLOUR.model_copy(update={"channels": 1})
WAYS = {
    "colour": COLOUR,
    "grey": GREY,
    "bicubic": COLOUR.model_copy(update={"interpolation": "bicubic"}),
    "decoded whole": COLOUR.model_copy(update={"shrink_on_load": False}),
    "not cropped": COLOUR.model_copy(update={"resize": SIDE}),
}


def of_the_right_size() -> bytes:
    """Neither resized nor cropped where nothing is cropped: the service decodes such a JPEG without Pillow."""
    buffer = BytesIO()
    Image.open(BytesIO(photograph("coffee"))).resize((SIDE, SIDE)).save(buffer, "JPEG")
    return buffer.getvalue()


def point() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (1, 1), (200, 100, 50)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = [*KINDS.values(), of_the_right_size(), point()]


def passing(channels: int) -> onnx.ModelProto:
    """A graph whose logits are the very pixels that it is given: none is below 0, so the activation changes nothing."""
    model = parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 20, "reslens" : 1]>
        passing (float[N, {channels}, {SIDE}, {SIDE}] images) => (float[N, {channels * SIDE * SIDE}] logits) {{
            active = reslens.relu(images)
            logits = Flatten(active)
        }}
        <domain: "reslens", opset_import: ["" : 20]>
        relu (x) => (y) {{ y = Relu(x) }}
    """)
    onnx.checker.check_model(model, full_check=True)
    return model


def described(preprocessing: Preprocessing) -> ModelManifest:
    """The manifest of such a graph."""
    channels = preprocessing.channels
    logits = channels * SIDE * SIDE
    site = ActivationSite(
        name="act1", activation="relu", tensor="active", channels=channels, signed=False, saturation=None
    )
    return bundles.manifest("passing", 1, {"model.onnx": "0" * 64}).model_copy(
        update={
            "inputs": (TensorSpec(name="images", datatype="FP32", shape=(-1, channels, SIDE, SIDE)),),
            "outputs": (TensorSpec(name="logits", datatype="FP32", shape=(-1, logits)),),
            "class_names": tuple(map(str, range(logits))),
            "preprocessing": preprocessing,
            "sites": (site,),
            "blocks": (),
        }
    )


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    root = tmp_path_factory.mktemp("shelf")
    kept = ("inputs", "outputs", "class_names", "preprocessing", "sites", "blocks")
    for number, preprocessing in enumerate(WAYS.values()):
        changes = {name: getattr(described(preprocessing), name) for name in kept}
        graph = passing(preprocessing.channels).SerializeToString()
        bundles.publish(root, f"way{number}", graph=graph, **changes)
    with process(root) as address, httpx.Client(base_url=f"http://{address}", timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files in both classes of both splits."""
    root = tmp_path_factory.mktemp("pictures")
    for place in ("train/even", "train/odd", "test/even", "test/odd"):
        (root / place).mkdir(parents=True)
        for number, content in enumerate(FILES):
            (root / place / f"{number:02}.png").write_bytes(content)
    return root


def served(client: httpx.Client, model: str) -> NDArray[np.float32]:
    """What the graph was given of each file, N×(C·H·W)."""
    rows = []
    for content in FILES:
        answer = binary(client, "BYTES", [1], len(content).to_bytes(4, "little") + content, model)
        assert answer.status_code == 200, answer.text
        rows.append(answer.json()["outputs"][0]["data"])
    return np.array(rows, np.float32)


def trained_and_evaluated(data: DataSet) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a network is given in the batches of an epoch, and in evaluation."""
    network = NetworkConfig("resnet8", "relu", "original", classes=2, channels=data.preprocessing.channels)
    recipe = Recipe(epochs=1, batch_size=8, crop_padding=0)
    trainer = Trainer(network, recipe, replace(data, mirrored=False), torch.device("cpu"))
    batches = [images.numpy() for images, _ in trainer._batches()]
    evaluated: list[NDArray[np.float32]] = []
    trainer.averaged.register_forward_pre_hook(lambda _, inputs: evaluated.append(inputs[0].numpy()))
    trainer.evaluate()
    return np.concatenate(batches), np.concatenate(evaluated)


def in_any_order(images: NDArray[np.float32]) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


@pytest.mark.parametrize("way", WAYS)
def test_all_four_see_the_same_bits(way: str, client: httpx.Client, folder: Path) -> None:
    preprocessing = WAYS[way]
    once = served(client, f"way{list(WAYS).index(way)}")
    assert len({row.tobytes() for row in once}) > len(FILES) / 2, "only some stand for the same pixels"
    expected = np.concatenate([once, once])
    data = read(list_images(folder), preprocessing)
    trained, evaluated = trained_and_evaluated(data)
    assert in_any_order(trained) == in_any_order(expected)
    assert evaluated.tobytes() == expected.tobytes()
    # The baseline keeps no image: what it measures of the graph's outputs must come of these very ones.
    metrics, baseline = measure(passing(preprocessing.channels), described(preprocessing), data)
    logits = expected.astype(np.float64)
    assert metrics.loss == pytest.approx(-log_softmax(logits, 1)[np.arange(len(logits)), data.held_out.labels].mean())
    assert baseline.predicted.tolist() == expected.argmax(1).tolist()
    largest = expected.reshape(len(expected), preprocessing.channels, -1).max((0, 2))
    assert baseline.window.maximum.tolist() == largest.tolist()
