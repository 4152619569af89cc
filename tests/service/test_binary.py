"""Tensors as bytes, over a socket, written and read by hand as the protocol says."""

import base64
import json
import struct
import threading
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.images import decode
from tests import bundles
from tests.service.conftest import png
from tests.service.messages import HEADER, INFER, error, message, post, read

Pixels = NDArray[np.uint8]
BINARY = {"binary_data_output": True}


def close(actual: NDArray[Any], expected: NDArray[Any]) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("datatype", ["UINT8", "FP16", "FP32"])
@pytest.mark.parametrize("padding", range(4), ids="aligned by {}".format)
def test_binary_in_and_out(
    client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels, datatype: str, padding: int
) -> None:
    kind = {"UINT8": "u1", "FP16": "<f2", "FP32": "<f4"}[datatype]
    content = pixels.astype(kind).tobytes()
    body, headers = message(content, *pixels.shape, datatype=datatype, parameters=BINARY, id="x" * padding)
    answer, contents = read(post(client, body, headers))
    assert answer["id"] == "x" * padding
    assert (answer["model_name"], answer["model_version"]) == ("tiny", "2")
    (output,) = answer["outputs"]
    assert output == {
        "name": "logits",
        "datatype": "FP32",
        "shape": [4, 3],
        "parameters": {"binary_data_size": 4 * 3 * 4},
    }
    close(np.frombuffer(contents["logits"], "<f4").reshape(4, 3), tiny.logits(pixels))


def test_each_output_has_its_own_form(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels) -> None:
    outputs = [
        {"name": "statistics.mean", "parameters": {"binary_data": True}},
        {"name": "logits", "parameters": {"binary_data": False}},
        {"name": "statistics.active"},
    ]
    for all_binary in (True, False):
        body, headers = message(
            pixels.tobytes(), *pixels.shape, outputs=outputs, parameters={"binary_data_output": all_binary}
        )
        answer, contents = read(post(client, body, headers))
        assert [output["name"] for output in answer["outputs"]] == ["statistics.mean", "logits", "statistics.active"]
        mean, logits, active = answer["outputs"]
        assert "data" not in mean
        assert ("data" in active) is not all_binary
        close(np.reshape(logits["data"], (4, 3)), tiny.logits(pixels))
        first, last = tiny.activations(pixels)
        means = np.concatenate([first.mean((2, 3)), last.mean((2, 3))], axis=1)
        close(np.frombuffer(contents["statistics.mean"], "<f4").reshape(means.shape), means)
        shares = np.concatenate([(first > 0).mean((2, 3)), (last > 0).mean((2, 3))], axis=1)
        received = np.frombuffer(contents["statistics.active"], "<f4") if all_binary else active["data"]
        close(np.reshape(received, shares.shape), shares)


def test_binary_in_and_json_out(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels) -> None:
    response = post(client, *message(pixels.tobytes(), *pixels.shape))
    assert response.headers["content-type"] == "application/json"
    assert HEADER not in response.headers
    close(np.reshape(response.json()["outputs"][0]["data"], (4, 3)), tiny.logits(pixels))


def test_json_in_and_binary_out(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels) -> None:
    given = {"name": "images", "shape": pixels.shape, "datatype": "UINT8", "data": pixels.ravel().tolist()}
    body = json.dumps({"inputs": [given], "parameters": BINARY}).encode()
    for headers in ({}, {HEADER: str(len(body))}):
        _, contents = read(post(client, body, headers))
        close(np.frombuffer(contents["logits"], "<f4").reshape(4, 3), tiny.logits(pixels))


@pytest.mark.parametrize("kind", ["u1", "<f2", "<f4"])
def test_a_body_that_is_one_tensor(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels, kind: str) -> None:
    answer, contents = read(post(client, pixels[:1].astype(kind).tobytes(), {HEADER: "0"}))
    assert answer["outputs"][0]["shape"] == [1, 3]
    close(np.frombuffer(contents["logits"], "<f4").reshape(1, 3), tiny.logits(pixels[:1]))


def test_a_raw_tensor_of_another_size(client: httpx.Client) -> None:
    assert "192 (UINT8)" in error(post(client, bytes(191), {HEADER: "0"}))


def test_a_body_in_chunks(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels) -> None:
    body, headers = message(pixels.tobytes(), *pixels.shape, parameters=BINARY)
    chunks = (body[start : start + 100] for start in range(0, len(body), 100))
    _, contents = read(client.post(INFER, content=chunks, headers=headers))
    close(np.frombuffer(contents["logits"], "<f4").reshape(4, 3), tiny.logits(pixels))


# Encoded images


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_encoded_images(
    client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels, binary: bool, shape: tuple[int, ...]
) -> None:
    images = [png(image) for image in pixels]
    if binary:
        content = b"".join(struct.pack("<I", len(image)) + image for image in images)
        response = post(client, *message(content, *shape, datatype="BYTES"))
    else:
        data = np.reshape([base64.b64encode(image).decode() for image in images], shape).tolist()
        given = {"name": "images", "shape": shape, "datatype": "BYTES", "data": data}
        response = client.post(INFER, json={"inputs": [given]})
    assert response.status_code == 200, response.text
    close(np.reshape(response.json()["outputs"][0]["data"], (4, 3)), tiny.logits(pixels))


def test_large_images_are_decoded_beside_the_event_loop(
    client: httpx.Client, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noting(*arguments: Any) -> NDArray[np.uint8]:
        threads.append(threading.current_thread().name)
        return decode(*arguments)

    monkeypatch.setattr("service.runtime.decoding.decode", noting)
    for image in (png(pixels[0]), png(np.zeros((3, 400, 400), np.uint8))):
        response = post(client, *message(struct.pack("<I", len(image)) + image, 1, datatype="BYTES"))
        assert response.status_code == 200
    small, large = threads
    assert not small.startswith("work")
    assert large.startswith("work")


def test_an_image_that_cannot_be_used_is_named(client: httpx.Client, pixels: Pixels) -> None:
    elements = [png(pixels[0]), b"text named .jpg"]
    content = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    said = error(post(client, *message(content, 2, datatype="BYTES")), 422)
    assert said.startswith("element 1 of input 'images': these 15 bytes are not an image")


def test_the_pixels_of_all_images_are_limited(client: httpx.Client) -> None:
    image = png(np.zeros((3, 300, 300), np.uint8))
    content = (struct.pack("<I", len(image)) + image) * 3
    assert "element 2 of input 'images'" in error(post(client, *message(content, 3, datatype="BYTES")), 413)


# Classification


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (2, 2), (1000, 3)])
@pytest.mark.parametrize("binary", [True, False])
def test_classes(
    client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels, asked: int, given: int, binary: bool
) -> None:
    outputs = [{"name": "logits", "parameters": {"classification": asked, "binary_data": binary}}]
    response = post(client, *message(pixels.tobytes(), *pixels.shape, outputs=outputs))
    if binary:
        answer, contents = read(response)
        strings = elements(contents["logits"])
    else:
        answer = response.json()
        strings = answer["outputs"][0]["data"]
    assert (answer["outputs"][0]["datatype"], answer["outputs"][0]["shape"]) == ("BYTES", [4, given])
    rows = np.reshape([string.split(":") for string in strings], (4, given, 3))
    for logits, row in zip(tiny.logits(pixels), rows, strict=True):
        best = sorted(range(3), key=lambda index: -logits[index])[:given]
        assert [int(index) for _, index, _ in row] == best
        assert [label for *_, label in row] == [bundles.LABELS[index] for index in best]
        close(np.array([float(value) for value, *_ in row]), logits[best])


def test_columns_without_labels_have_no_label(client: httpx.Client, pixels: Pixels) -> None:
    outputs = [{"name": "statistics.mean", "parameters": {"classification": 1}}]
    answer = post(client, *message(pixels.tobytes(), *pixels.shape, outputs=outputs)).json()
    assert all(len(string.split(":")) == 2 for string in answer["outputs"][0]["data"])


def elements(content: bytes) -> list[str]:
    strings = []
    while content:
        (size,) = struct.unpack_from("<I", content)
        strings.append(content[4 : 4 + size].decode())
        content = content[4 + size :]
    return strings


# What JSON cannot carry


def test_what_is_not_finite_travels_as_bytes(client: httpx.Client) -> None:
    content = np.full((1, 3, 8, 8), np.nan, "<f4").tobytes()
    body, headers = message(content, 1, 3, 8, 8, datatype="FP32", parameters=BINARY)
    _, contents = read(post(client, body, headers))
    assert np.isnan(np.frombuffer(contents["logits"], "<f4")).all()
    body, headers = message(content, 1, 3, 8, 8, datatype="FP32")
    assert "ask for the output with binary_data" in error(post(client, body, headers))


# Headers and sizes that lie


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999", "9" * 40, "", "1_0", "٣"])
def test_a_header_that_is_no_length(client: httpx.Client, pixels: Pixels, length: str) -> None:
    body, _ = message(pixels.tobytes(), *pixels.shape)
    assert HEADER in error(client.post(INFER, content=body, headers={HEADER: length.encode()}))


def test_two_headers_that_disagree(client: httpx.Client, pixels: Pixels) -> None:
    body, headers = message(pixels.tobytes(), *pixels.shape)
    pairs = [(HEADER, headers[HEADER]), (HEADER, "7")]
    assert HEADER in error(client.post(INFER, content=body, headers=pairs))


@pytest.mark.parametrize("change", [-2, -1, 1, 2])
def test_a_header_that_is_a_little_wrong(client: httpx.Client, pixels: Pixels, change: int) -> None:
    body, headers = message(pixels.tobytes(), *pixels.shape)
    error(post(client, body, {HEADER: str(int(headers[HEADER]) + change)}))


def test_bytes_that_are_missing_or_too_many(client: httpx.Client, pixels: Pixels) -> None:
    body, headers = message(pixels.tobytes(), *pixels.shape)
    assert "767 bytes are left" in error(post(client, body[:-1], headers))
    assert "1 bytes at the end of the body belong to no input" in error(post(client, body + b"x", headers))
    body, headers = message(pixels.tobytes()[1:], *pixels.shape)
    assert "needs 768" in error(post(client, body, headers))
    body, headers = message(pixels.tobytes(), *pixels.shape, datatype="INT64")
    assert "expected FP32, FP16, UINT8 or BYTES" in error(post(client, body, headers))


@pytest.mark.parametrize(
    "content",
    [b"", b"\1\0\0", b"\2\0\0\0x", b"\xff\xff\xff\xff", b"\1\0\0\0x\1\0\0\0x", b"\1\0\0\0xy"],
    ids=["none", "short length", "short element", "huge length", "two", "more"],
)
def test_elements_that_lie_about_their_length(client: httpx.Client, content: bytes) -> None:
    assert "input 'images'" in error(post(client, *message(content, 1, datatype="BYTES")))
