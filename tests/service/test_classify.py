import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.routes.answers import Classification, ClassifiedImage, FailedImage
from tests import bundles
from tests.service.conftest import encoded, png

CLASSIFY = "/v1/models/tiny/classify"
Pixels = NDArray[np.uint8]


def answer(response: httpx.Response) -> Classification:
    """The answer, which has exactly the fields that are documented."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    classification = Classification.model_validate(response.json())
    assert classification.model_dump() == response.json()
    return classification


def only(classification: Classification) -> ClassifiedImage:
    (image,) = classification.images
    assert isinstance(image, ClassifiedImage)
    return image


def probabilities(image: ClassifiedImage | FailedImage) -> list[float]:
    assert isinstance(image, ClassifiedImage)
    return [ranked.probability for ranked in sorted(image.classes, key=lambda ranked: ranked.index)]


def error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert response.headers["content-type"] == "application/json"
    return str(response.json()["error"])


# The three ways to send an image


def test_raw_body(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels) -> None:
    response = client.post(CLASSIFY, content=png(pixels[0]), headers={"Content-Type": "image/png"})
    classification = answer(response)
    image = only(classification)
    expected = tiny.probabilities(pixels[:1])[0]
    assert (classification.model, classification.version) == ("tiny", 2)
    assert classification.provider == "CPUExecutionProvider"
    np.testing.assert_allclose(probabilities(image), expected, atol=1e-5)
    assert [ranked.index for ranked in image.classes] == np.argsort(-expected).tolist()
    assert [ranked.label for ranked in image.classes] == [bundles.LABELS[i] for i in np.argsort(-expected)]
    assert image.statistics is None


@pytest.mark.parametrize("content_type", [None, "application/octet-stream", "image/jpeg; q=1", "IMAGE/PNG"])
def test_raw_body_of_any_declared_type(client: httpx.Client, pixels: Pixels, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    only(answer(client.post(CLASSIFY, content=png(pixels[0]), headers=headers)))


def test_form_with_several_files(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels) -> None:
    files = [(field, (f"{i}.png", png(image))) for i, (field, image) in enumerate(zip("abab", pixels, strict=True))]
    images = answer(client.post(CLASSIFY, files=files)).images
    assert [image.file for image in images] == ["0.png", "1.png", "2.png", "3.png"]
    np.testing.assert_allclose([probabilities(image) for image in images], tiny.probabilities(pixels), atol=1e-5)


def test_json_with_base64(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels) -> None:
    first, second = (base64.b64encode(png(image)).decode() for image in pixels[:2])
    wrapped = "\n".join(second[i : i + 76] for i in range(0, len(second), 76))
    one = answer(client.post(CLASSIFY, json={"image": f"data:image/png;base64,{first}"}))
    two = answer(client.post(CLASSIFY, json={"images": [first, wrapped]}))
    expected = tiny.probabilities(pixels[:2])
    np.testing.assert_allclose(probabilities(only(one)), expected[0], atol=1e-5)
    np.testing.assert_allclose([probabilities(image) for image in two.images], expected, atol=1e-5)


# Options


def test_options_in_query_form_and_json(client: httpx.Client, pixels: Pixels) -> None:
    content = png(pixels[0])
    by_query = client.post(CLASSIFY, content=content, params={"top_k": 2, "version": 1})
    by_form = client.post(CLASSIFY, files={"file": content}, data={"top_k": "2", "version": "1"})
    by_json = client.post(
        CLASSIFY, json={"image": base64.b64encode(content).decode(), "top_k": 2, "version": 1}, params={"top_k": 1}
    )
    expected = bundles.Tiny.random(1).probabilities(pixels[:1])[0]
    for response in (by_query, by_form, by_json):
        classification = answer(response)
        assert classification.version == 1
        classes = only(classification).classes
        np.testing.assert_allclose([c.probability for c in classes], np.sort(expected)[::-1][:2], atol=1e-5)


def test_more_classes_than_there_are_ranks_them_all(client: httpx.Client, pixels: Pixels) -> None:
    image = only(answer(client.post(CLASSIFY, content=png(pixels[0]), params={"top_k": 10**9})))
    assert len(image.classes) == len(bundles.LABELS)
    assert sum(probabilities(image)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        ({"top_k": 0}, "top_k"),
        ({"top_k": "many"}, "top_k"),
        ({"statistics": "all"}, "'none', 'layers' or 'channels'"),
        ({"version": 0}, "version"),
        ({"topk": 3}, "topk"),
    ],
)
def test_wrong_options(client: httpx.Client, pixels: Pixels, params: dict[str, str], complaint: str) -> None:
    content = png(pixels[0])
    assert complaint in error(client.post(CLASSIFY, content=content, params=params), 422)
    in_json = {"image": base64.b64encode(content).decode(), **params}
    assert complaint in error(client.post(CLASSIFY, json=in_json), 400)


# Statistics


def test_layer_statistics(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels) -> None:
    files = [("file", png(image)) for image in pixels]
    images = answer(client.post(CLASSIFY, files=files, params={"statistics": "layers"})).images
    activations = tiny.activations(pixels)
    for row, image in enumerate(images):
        assert isinstance(image, ClassifiedImage)
        assert image.statistics is not None
        assert [layer.layer for layer in image.statistics.layers] == ["act1", "layer1.0.act2"]
        for layer, activation in zip(image.statistics.layers, activations, strict=True):
            x = activation[row]
            assert layer.activation == "relu"
            assert layer.mean == pytest.approx(x.mean(), rel=1e-4)
            assert layer.rms == pytest.approx(np.sqrt((x**2).mean()), rel=1e-4)
            assert layer.active_fraction == pytest.approx((x > 0).mean(), abs=1e-6)
            assert layer.saturated_fraction == pytest.approx((x <= 0).mean(), abs=1e-6)
            assert layer.maximum == pytest.approx(x.max(), rel=1e-4)
            assert layer.channels is None
        shortcut, output = (activation[row] for activation in activations)
        expected = np.sqrt(((output - shortcut) ** 2).mean() / (shortcut**2).mean())
        (block,) = image.statistics.blocks
        assert (block.block, block.residual_share) == ("layer1.0", pytest.approx(expected, rel=1e-3))


def test_channel_statistics(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels) -> None:
    response = client.post(CLASSIFY, content=png(pixels[0]), params={"statistics": "channels"})
    image = only(answer(response))
    assert image.statistics is not None
    for layer, activation in zip(image.statistics.layers, tiny.activations(pixels), strict=True):
        assert layer.channels is not None
        np.testing.assert_allclose(layer.channels.mean, activation[0].mean((1, 2)), rtol=1e-4, atol=1e-6)


def test_statistics_do_not_change_the_classes(client: httpx.Client, pixels: Pixels) -> None:
    plain, seen = (
        only(answer(client.post(CLASSIFY, content=png(pixels[0]), params={"statistics": statistics})))
        for statistics in ("none", "channels")
    )
    assert plain.classes == seen.classes


# Bad requests


def test_unknown_model_and_version(client: httpx.Client, pixels: Pixels) -> None:
    content = png(pixels[0])
    assert "choose from loud, tiny" in error(client.post("/v1/models/absent/classify", content=content), 404)
    assert "choose from 1, 2" in error(client.post(CLASSIFY, content=content, params={"version": 9}), 404)
    assert "has no version" in error(client.post(CLASSIFY, content=content, params={"version": 10**9 - 1}), 404)
    assert "equal to 999999999" in error(client.post(CLASSIFY, content=content, params={"version": 10**30}), 422)


BAD_IMAGES = {
    "empty": (b"", 422, "empty"),
    "text": (b"this is not an image", 422, "not an image"),
    "truncated JPEG": (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:-500], 422, "truncated or damaged"),
    "truncated PNG": (encoded(Image.effect_noise((64, 64), 50), "PNG")[:-500], 422, "truncated or damaged"),
    "only a header": (encoded(Image.new("RGB", (64, 64)), "PNG")[:20], 422, "not an image"),
    "too many pixels": (encoded(Image.new("1", (1000, 1000)), "PNG"), 413, "1000×1000 pixels, more than 200,000"),
    "pixel bomb": (encoded(Image.new("1", (20_000, 20_000)), "PNG"), 413, "too large"),
    "long and thin": (encoded(Image.new("1", (1, 5000)), "PNG"), 413, "less elongated"),
    "format of no photo": (encoded(Image.new("RGB", (8, 8)), "PPM"), 422, "not an image"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image(client: httpx.Client, pixels: Pixels, name: str) -> None:
    content, status, complaint = BAD_IMAGES[name]
    assert complaint in error(client.post(CLASSIFY, content=content), status)
    assert complaint in error(client.post(CLASSIFY, files={"file": ("photo.jpg", content)}), status)
    if content:
        assert complaint in error(client.post(CLASSIFY, json={"image": base64.b64encode(content).decode()}), status)
    only(answer(client.post(CLASSIFY, content=png(pixels[0]))))


def test_a_bad_image_fails_alone(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels) -> None:
    files = [("file", ("good.png", png(pixels[0]))), ("file", ("bad.jpg", b"text")), ("file", png(pixels[1]))]
    first, bad, last = answer(client.post(CLASSIFY, files=files, params={"statistics": "layers"})).images
    assert isinstance(bad, FailedImage)
    assert bad.file == "bad.jpg"
    assert "not an image" in bad.error
    np.testing.assert_allclose([probabilities(first), probabilities(last)], tiny.probabilities(pixels[:2]), atol=1e-5)


def test_when_every_image_is_bad_the_request_fails(client: httpx.Client) -> None:
    message = error(client.post(CLASSIFY, files=[("file", b"text"), ("file", b"text"), ("file", ("e.png", b""))]), 422)
    assert message.count("not an image") == 1
    assert "empty" in message


@pytest.mark.parametrize(
    ("request_body", "status", "complaint"),
    [
        ({"json": {}}, 400, "has no image"),
        ({"json": {"images": []}}, 400, "has no image"),
        ({"json": {"images": ["!"]}}, 400, "not base64"),
        ({"json": {"images": ["é"]}}, 400, "not base64"),
        ({"json": {"images": [1]}}, 400, "images.0"),
        ({"json": {"picture": ""}}, 400, "picture"),
        ({"json": []}, 400, "request"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "image/*"),
        ({"content": b"x", "headers": {"Content-Encoding": "br"}}, 415, "uncompressed"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400, ""),
        ({"data": {"file": "photo.jpg"}, "files": {"x": b"x"}}, 400, "-F file=@photo.jpg"),
        ({"files": [("file", b"x")] * 6}, 400, "Too many files"),
        ({"json": {"images": ["eA=="] * 6}}, 400, "at most 5"),
    ],
)
def test_bad_request(client: httpx.Client, request_body: dict[str, object], status: int, complaint: str) -> None:
    assert complaint in error(client.post(CLASSIFY, **request_body), status)


@pytest.mark.parametrize("charset", ["utf-7", "unicode_escape", "punycode", "zlib", '"utf-16"', "raw_unicode_escape"])
def test_a_form_in_another_charset_than_utf_8(client: httpx.Client, charset: str) -> None:
    assert "utf-8" in error(client.post(CLASSIFY, **form(b"+2AA-", charset)), 400)


@pytest.mark.parametrize("name", ["ü.png", "a b.png", ""])
def test_file_names_come_back(client: httpx.Client, pixels: Pixels, name: str) -> None:
    image = only(answer(client.post(CLASSIFY, **form(name.encode(), "UTF-8", png(pixels[0])))))
    assert image.file == name


def test_a_file_name_that_is_not_utf_8_is_no_error(client: httpx.Client, pixels: Pixels) -> None:
    only(answer(client.post(CLASSIFY, **form(b"\xed\xa0\x80\xff", "utf-8", png(pixels[0])))))


def form(filename: bytes, charset: str, content: bytes = b"") -> dict[str, Any]:
    disposition = b'--B\r\nContent-Disposition: form-data; name="file"; filename="' + filename + b'"\r\n\r\n'
    content_type = f"multipart/form-data; boundary=B; charset={charset}"
    return {"content": disposition + content + b"\r\n--B--\r\n", "headers": {"Content-Type": content_type}}


def test_body_that_is_too_long(client: httpx.Client, pixels: Pixels) -> None:
    assert "1,048,576 bytes" in error(client.post(CLASSIFY, content=bytes(1_100_000)), 413)
    chunks = (bytes(65536) for _ in range(20))
    assert "1,048,576 bytes" in error(client.post(CLASSIFY, content=chunks), 413)
    assert "1,048,576 bytes" in error(client.post(CLASSIFY, files={"file": bytes(1_100_000)}), 413)
    only(answer(client.post(CLASSIFY, content=png(pixels[0]))))


def test_good_requests_beside_bad_ones_are_untouched(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels) -> None:
    expected = tiny.probabilities(pixels[:1])[0]
    bad = [content for content, _, _ in BAD_IMAGES.values()]

    def ask(turn: int) -> httpx.Response:
        content = bad[turn // 2 % len(bad)] if turn % 2 else png(pixels[0])
        return client.post(CLASSIFY, content=content, params={"statistics": "layers" if turn % 4 else "none"})

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(ask, range(80)))
    for turn, response in enumerate(responses):
        if turn % 2:
            assert response.status_code in (413, 422)
        else:
            np.testing.assert_allclose(probabilities(only(answer(response))), expected, atol=1e-5)
