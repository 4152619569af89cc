"""Tensors as bytes, over a socket, written and read by hand as the protocol says."""

import base64
import gzip
import json
import struct
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests import bundles
from tests.service.conftest import png

INFER = "/v2/models/tiny/infer"
HEADER = "Inference-Header-Content-Length"
Pixels = NDArray[np.uint8]
BINARY = {"binary_data_output": True}


def message(content: bytes, *shape: int, datatype: str = "UINT8", **more: Any) -> tuple[bytes, dict[str, str]]:
    given = {"name": "images", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(content)}}
    header = json.dumps({"inputs": [given], **more}).encode()
    return header + content, {HEADER: str(len(header))}


def post(client: httpx.Client, body: bytes, headers: dict[str, str], path: str = INFER) -> httpx.Response:
    return client.post(path, content=body, headers=headers)


def read(response: httpx.Response) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The JSON of an answer, and the bytes of each output behind it."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[HEADER])
    answer, rest = json.loads(response.content[:length]), response.content[length:]
    contents = {}
    for output in answer["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size", 0)
        contents[output["name"]], rest = rest[:size], rest[size:]
    assert rest == b""
    return answer, contents


def error(response: httpx.Response, status: int = 400) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    return str(response.json()["error"])


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


# Compression


def raw_deflate(content: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(content) + stream.flush()


COMPRESSORS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    # Not what the standard says, and what some clients send.
    "raw deflate": raw_deflate,
}


def encoding(name: str) -> str:
    return "gzip" if "gzip" in name else "deflate"


@pytest.mark.parametrize("name", COMPRESSORS)
def test_compressed_requests(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels, name: str) -> None:
    body, headers = message(pixels.tobytes(), *pixels.shape)
    response = post(client, COMPRESSORS[name](body), {**headers, "Content-Encoding": encoding(name)})
    assert response.status_code == 200, response.text
    close(np.reshape(response.json()["outputs"][0]["data"], (4, 3)), tiny.logits(pixels))


def test_compressed_images_can_be_classified(client: httpx.Client, pixels: Pixels) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "image/png"}
    response = client.post("/v1/models/tiny/classify", content=gzip.compress(png(pixels[0])), headers=headers)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_body_that_is_too_long_once_decompressed(client: httpx.Client, name: str) -> None:
    bomb = COMPRESSORS[name](bytes(64 << 20))
    assert len(bomb) < 1 << 20
    said = error(client.post(INFER, content=bomb, headers={"Content-Encoding": encoding(name)}), 413)
    assert "more than 1,048,576 bytes" in said


DAMAGED = {
    "empty": b"",
    "text": b"text",
    "one byte": b"\x1f",
    "truncated": gzip.compress(b"{}" * 99)[:-9],
    "followed by more": gzip.compress(b"{}") + b"x",
    "many members": gzip.compress(b"") * 50_000,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_body_that_is_not_what_its_encoding_says(client: httpx.Client, name: str) -> None:
    error(client.post(INFER, content=DAMAGED[name], headers={"Content-Encoding": "gzip"}))


def test_an_encoding_that_is_not_known(client: httpx.Client) -> None:
    assert "gzip, deflate" in error(client.post(INFER, content=b"{}", headers={"Content-Encoding": "br"}), 415)


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_answers_are_compressed_for_those_who_ask(client: httpx.Client, pixels: Pixels, name: str) -> None:
    outputs = [{"name": "statistics.mean"}, {"name": "statistics.active"}]
    body, headers = message(pixels.tobytes(), *pixels.shape, outputs=outputs)
    response = post(client, body, {**headers, "Accept-Encoding": name})
    assert response.headers["content-encoding"] == name
    plain = post(client, body, {**headers, "Accept-Encoding": "identity"})
    assert response.json() == plain.json()
    assert "content-encoding" not in plain.headers


@pytest.mark.parametrize("accept", ["gzip, deflate", "*", "", "br", "gzip;q=0"])
def test_nobody_else_gets_compressed_answers(client: httpx.Client, pixels: Pixels, accept: str) -> None:
    outputs = [{"name": "statistics.mean"}, {"name": "statistics.active"}]
    body, headers = message(pixels.tobytes(), *pixels.shape, outputs=outputs)
    assert "content-encoding" not in post(client, body, {**headers, "Accept-Encoding": accept}).headers
