"""Attention in the service: what is refused, what it costs who does not ask, and the picture against its formula."""

from base64 import b64decode
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser
from PIL import Image

from models.manifest import ATTENTION, HostNormalisation, Preprocessing, TensorSpec
from models.preprocessing import pixels_to_tensor, tensor_to_pixels
from models.repository import ModelRepository
from service.heat_map import HOT, SMALLEST_SIDE, STRONGEST, heat_map
from service.runtime.classifier import Classifier
from service.runtime.model import LoadedModel, Tensors
from service.runtime.observation import run
from service.runtime.provider import CPU
from tests import bundles
from tests.service.conftest import png, serving

SHAPE = (-1, bundles.SIZE, bundles.SIZE)
LOGITS = TensorSpec(name="logits", datatype="FP32", shape=(-1, len(bundles.LABELS)))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3, bundles.SIZE, bundles.SIZE)).astype(np.float32)
NODES = """
<ir_version: 10, opset_import: ["" : 20]>
attending (float[N, 16, 8, 8] a2) => (float[N, 8, 8] attention) {
    strength = ReduceMean<keepdims = 0>(a2, axes)
    row = Flatten(strength)
    shares = Softmax(row)
    attention = Reshape(shares, sizes)
}
"""


def attending(name: str = ATTENTION) -> bytes:
    """The tiny classifier with the softmax of its channels' means as a second output."""
    model, more = bundles.Tiny.random().graph(), parser.parse_model(NODES).graph
    more.node[-1].output[0] = name
    model.graph.node.extend(more.node)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(values, np.int64), called)
        for called, values in (("axes", [1]), ("sizes", [-1, *SHAPE[1:]]))
    )
    model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *SHAPE[1:]]))
    return model.SerializeToString()


def loaded(root: Path, shape: Sequence[int] = SHAPE, name: str = ATTENTION) -> LoadedModel:
    outputs = (LOGITS, TensorSpec(name=name, datatype="FP32", shape=tuple(shape)))
    bundles.publish(root, graph=attending(name), outputs=outputs)
    return LoadedModel(ModelRepository(root).open("tiny"), CPU, threads=1)


@pytest.mark.parametrize(
    ("shape", "name", "complaint"),
    [
        (SHAPE, "looks", "output 'looks' is unknown"),
        ((-1, 64), ATTENTION, r"has shape \(-1, 64\), expected \(-1, height, width\)"),
        ((-1, 8, 4), ATTENTION, "the graph's outputs are"),
    ],
)
def test_outputs_that_are_not_understood_are_refused(
    tmp_path: Path, shape: tuple[int, ...], name: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        loaded(tmp_path, shape, name)


def test_both_sessions_give_the_weights_that_numpy_gives(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    strength = bundles.Tiny.random().activations(IMAGES)[1].mean(1)
    exponentials = np.exp(strength)
    expected = exponentials / exponentials.sum((1, 2), keepdims=True)
    for more in ((), model.statistics_names):
        values = model.run(IMAGES, (ATTENTION, *more))
        assert np.abs(values[ATTENTION] - expected).max() <= 1e-5


@pytest.mark.parametrize("statistics", [False, True])
def test_weights_are_fetched_only_where_they_are_asked_for(tmp_path: Path, statistics: bool) -> None:
    model = loaded(tmp_path)
    outputs = {asked: Classifier(model, 1, statistics, False, asked).outputs for asked in (False, True)}
    assert set(outputs[True]) - set(outputs[False]) == {ATTENTION}
    # Nor does who watches get them.
    seen: list[Tensors] = []
    run(model, IMAGES, (LOGITS.name,), lambda _, values: seen.append(values))
    assert seen[0].keys() == {LOGITS.name, *model.statistics_names}


def heat_by_hand(weights: NDArray[np.float32], height: int, width: int) -> NDArray[np.float64]:
    """Linear between the centres of positions, even outside of them."""
    rows = (np.arange(height) + 0.5) * weights.shape[0] / height - 0.5
    columns = (np.arange(width) + 0.5) * weights.shape[1] / width - 0.5
    across = np.array([np.interp(columns, np.arange(weights.shape[1]), row) for row in weights])
    return np.array([np.interp(rows, np.arange(weights.shape[0]), column) for column in across.T]).T


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 30, 20), (3, 230, 300)])
def test_a_picture_is_the_grey_image_reddened_by_the_weights(channels: int, height: int, width: int) -> None:
    random = np.random.default_rng(0)
    weights = random.random((3, 2)).astype(np.float32)
    pixels = random.integers(0, 256, (1, height, width), np.uint8).repeat(channels, 0)
    drawn = np.asarray(Image.open(BytesIO(heat_map(weights / weights.sum(), pixels)))).astype(np.float64)
    scale = drawn.shape[0] // height
    assert drawn.shape == (height * scale, width * scale, 3)
    assert max(drawn.shape) >= SMALLEST_SIDE
    heat = heat_by_hand(weights / weights.max(), *drawn.shape[:2])[..., None] * STRONGEST
    grey = pixels[0].repeat(scale, 0).repeat(scale, 1)[..., None]
    assert np.abs(drawn - (grey * (1 - heat) + np.array(HOT) * heat)).max() <= 3


def test_of_a_wide_photo_the_picture_shows_what_the_network_saw(tmp_path: Path) -> None:
    """The middle of it: pre-processing cuts the sides off."""
    outputs = (LOGITS, TensorSpec(name=ATTENTION, datatype="FP32", shape=SHAPE))
    bundles.publish(tmp_path, graph=attending(), outputs=outputs)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 8, 16), np.uint8)
    url = "/v1/models/tiny/classify?attention=true"
    with serving(tmp_path) as client:
        wide, middle, left = (
            client.post(url, content=png(pixels[:, :, columns])).json()["images"][0]["attention"]
            for columns in (slice(None), slice(4, 12), slice(0, 8))
        )
    assert wide == middle != left
    drawn = np.asarray(Image.open(BytesIO(b64decode(wide["heat_map"].partition(",")[2])))).astype(np.float64)
    weights = np.array(wide["weights"])
    grey = np.asarray(Image.fromarray(pixels[:, :, 4:12].transpose(1, 2, 0)).convert("L"))
    heat = STRONGEST * weights[0, -1] / weights.max()
    assert np.abs(drawn[0, -1] - ((1 - heat) * grey[0, -1] + heat * np.array(HOT))).max() <= 2


def test_a_tensor_is_turned_back_into_its_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), np.uint8)
    for normalisation in (None, HostNormalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))):
        preprocessing = Preprocessing(channels=3, height=4, width=5, resize=5, normalisation=normalisation)
        assert np.array_equal(tensor_to_pixels(pixels_to_tensor(pixels, preprocessing), preprocessing), pixels)
