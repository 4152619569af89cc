"""Every odd image, on every way in, over a socket: the pixels that it stands for, or an error that says why not."""

import base64
import json
from collections.abc import Callable, Iterator
from io import BytesIO

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests import bundles
from tests.service.conftest import encoded
from tests.service.processes import process

CLASSIFY = "/v1/models/tiny/classify"
INFER = "/v2/models/tiny/infer"
SIZE = bundles.SIZE
random = np.random.default_rng(7)
COLOUR = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
GREY = random.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
OPAQUE = random.random((SIZE, SIZE)) < 0.5
FRAMES = [Image.new("RGB", (SIZE, SIZE), colour) for colour in ((255, 0, 0), (0, 0, 255), (0, 255, 0))]
CMYK_JPEG = encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG")
NOISE = Image.effect_noise((64, 64), 50)
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root, "tiny", bundles.Tiny.random(2))
    with process(root, MAX_PIXELS=200_000) as address, httpx.Client(base_url=f"http://{address}", timeout=30) as client:
        yield client


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # the sensor saw it turned to the left
    return exif


def three(grey: Pixels) -> Pixels:
    return np.repeat(grey[:, :, None], 3, axis=2)


def palette() -> Image.Image:
    """Colour i of the palette is COLOUR's i-th pixel."""
    image = Image.fromarray(np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)).convert("P")
    image.putpalette(COLOUR.tobytes())
    return image


# Name → the file, and the pixels that it stands for, worked out without the code that is tested.
READABLE: dict[str, tuple[bytes, Pixels]] = {
    "CMYK JPEG": (CMYK_JPEG, np.asarray(Image.open(BytesIO(CMYK_JPEG)).convert("RGB"))),
    "alpha": (
        encoded(Image.fromarray(np.dstack([COLOUR, OPAQUE.astype(np.uint8) * 255])), "PNG"),
        np.where(OPAQUE[:, :, None], COLOUR, np.uint8(0)),
    ),
    "grey with alpha": (
        encoded(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(OPAQUE.astype(np.uint8) * 255)]), "PNG"),
        three(np.where(OPAQUE, GREY, np.uint8(0))),
    ),
    "palette": (encoded(palette(), "PNG"), COLOUR),
    "palette with a transparent colour": (
        encoded(palette(), "PNG", transparency=3),
        np.where((np.arange(SIZE * SIZE) == 3).reshape(SIZE, SIZE, 1), np.uint8(0), COLOUR),
    ),
    "16 bits": (encoded(Image.fromarray(GREY.astype(np.uint16) * 256 + 99), "PNG"), three(GREY)),
    "16 bits, TIFF": (encoded(Image.fromarray(GREY.astype(np.uint16) * 256 + 99), "TIFF"), three(GREY)),
    "EXIF rotation": (encoded(Image.fromarray(np.rot90(COLOUR).copy()), "PNG", exif=turned()), COLOUR),
    "animated GIF": (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), np.asarray(FRAMES[0])),
    "animated PNG": (encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), np.asarray(FRAMES[0])),
    "animated WebP": (
        encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True),
        np.asarray(FRAMES[0]),
    ),
}
# Name → the file, and what the error says.
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "truncated JPEG": (encoded(NOISE, "JPEG")[:-500], 422, "truncated or damaged"),
    "truncated JPEG of the right size": (
        encoded(NOISE.resize((SIZE, SIZE)), "JPEG")[:-20],
        422,
        "truncated or damaged",
    ),
    "truncated PNG": (encoded(NOISE, "PNG")[:-500], 422, "truncated or damaged"),
    "pixel bomb": (encoded(Image.new("1", (20_000, 20_000)), "PNG"), 413, "too large"),
    "long and thin": (encoded(Image.new("1", (1, 30_000)), "PNG"), 413, "less elongated"),
    "empty file": (b"", 422, "empty"),
    "text named .jpg": (b"this is not an image", 422, "not an image"),
    "floating point": (encoded(NOISE.convert("F"), "TIFF"), 422, "8 or 16 bits"),
}


def raw(client: httpx.Client, content: bytes) -> httpx.Response:
    return client.post(CLASSIFY, content=content, headers={"Content-Type": "image/jpeg"})


def form(client: httpx.Client, content: bytes) -> httpx.Response:
    return client.post(CLASSIFY, files={"file": ("photo.jpg", content)})


def base64_json(client: httpx.Client, content: bytes) -> httpx.Response:
    return client.post(CLASSIFY, json={"image": base64.b64encode(content).decode()})


def bytes_as_json(client: httpx.Client, content: bytes) -> httpx.Response:
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(content).decode()]}
    return client.post(INFER, json={"inputs": [tensor]})


def bytes_as_binary(client: httpx.Client, content: bytes) -> httpx.Response:
    return binary(client, "BYTES", [1], len(content).to_bytes(4, "little") + content)


def layer_map(client: httpx.Client, content: bytes) -> httpx.Response:
    return client.post("/v1/models/tiny/layers/act1/map", params={"format": "json"}, content=content)


def binary(
    client: httpx.Client, datatype: str, shape: list[int], content: bytes, model: str = "tiny"
) -> httpx.Response:
    """A request with one binary tensor; the answer is JSON."""
    tensor = {"name": "images", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return client.post(f"/v2/models/{model}/infer", content=head + content, headers=headers)


WAYS: dict[str, Callable[[httpx.Client, bytes], httpx.Response]] = {
    "raw body": raw,
    "form": form,
    "base64": base64_json,
    "BYTES, JSON": bytes_as_json,
    "BYTES, binary": bytes_as_binary,
    "layer map": layer_map,
}


def said(response: httpx.Response) -> object:
    """What an answer says of the image, without how long it took."""
    assert response.status_code == 200, response.text
    answer = response.json()
    if "images" in answer:
        return answer["images"][0]["classes"]
    return answer["outputs"][0]["data"] if "outputs" in answer else answer["values"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", READABLE)
def test_an_odd_image_is_the_pixels_that_it_stands_for(client: httpx.Client, name: str, way: str) -> None:
    content, pixels = READABLE[name]
    plain = encoded(Image.fromarray(pixels), "BMP")
    assert said(WAYS[way](client, content)) == said(WAYS[way](client, plain))


@pytest.mark.parametrize("name", READABLE)
def test_an_image_and_its_uint8_pixels_have_the_same_logits(client: httpx.Client, name: str) -> None:
    content, pixels = READABLE[name]
    tensor = binary(client, "UINT8", [1, 3, SIZE, SIZE], pixels.transpose(2, 0, 1).tobytes())
    assert said(bytes_as_binary(client, content)) == said(tensor)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused_with_what_is_wrong(client: httpx.Client, name: str, way: str) -> None:
    content, status, complaint = REFUSED[name]
    response = WAYS[way](client, content)
    assert response.status_code == status, response.text
    assert complaint in response.json()["error"]


def test_in_a_form_of_many_each_image_stands_for_itself(client: httpx.Client) -> None:
    contents = {
        **{name: file for name, (file, _) in READABLE.items()},
        **{name: file for name, (file, *_) in REFUSED.items()},
    }
    response = client.post(CLASSIFY, files=[("file", (name, content)) for name, content in contents.items()])
    assert response.status_code == 200, response.text
    images = {image["file"]: image for image in response.json()["images"]}
    assert list(images) == list(contents)
    for name, (content, _) in READABLE.items():
        assert images[name]["classes"] == said(raw(client, content))
    for name, (_, _, complaint) in REFUSED.items():
        assert complaint in images[name]["error"]
