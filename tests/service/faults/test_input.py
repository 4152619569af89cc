"""Requests that are wrong or meant to harm: the process answers as documented, and the next request as before."""

import gzip
import json
import socket
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from tests import bundles
from tests.service.conftest import png
from tests.service.faults.conftest import BINARY, CONTENT, MEGABYTE, PIXELS, TINY, memory
from tests.service.messages import HEADER, INFER, error, message, post, read
from tests.service.operated import Operated

CLASSIFY = "/v1/models/tiny/classify"


def tensor(**changes: Any) -> dict[str, Any]:
    given = {"name": "images", "shape": PIXELS.shape, "datatype": "UINT8", "data": PIXELS.ravel().tolist()}
    return {"inputs": [given | changes]}


# Headers and bodies


@pytest.mark.parametrize(
    "length", ["-1", str(1 << 40), str(2**63), "9" * 4000, "many", "1e2", "0x10", "", "1.0", "٣", "NaN"]
)
def test_a_length_of_the_header_that_cannot_be(client: httpx.Client, length: str) -> None:
    body, _ = message(CONTENT, *PIXELS.shape)
    response = client.post(INFER, content=body, headers=[(HEADER.encode(), length.encode())])
    assert HEADER.lower() in error(response).lower()


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"inputs":[', '{"inputs":[{"data":['])
def test_deep_json(client: httpx.Client, opening: str) -> None:
    assert error(client.post(INFER, content=opening * (900_000 // len(opening))))
    assert error(client.post("/v2/repository/index", content=opening * 100))


@pytest.mark.parametrize(
    "shape",
    [
        [2**62, 2**62, 2, 2],
        [2**64, 3, 8, 8],
        [10**30, 3, 8, 8],
        [1, 2**31, 2**31, 2],
        [-1, 3, 8, 8],
        [1, -3, 8, -8],
        [0, 3, 8, 8],
        [1, 3, 0, 8],
        [],
        [1.5, 3, 8, 8],
        [True, 3, 8, 8],
        ["1", 3, 8, 8],
        [None],
        [1] * 1000,
    ],
    ids=str,
)
def test_shapes_that_cannot_be(client: httpx.Client, shape: list[Any]) -> None:
    assert error(client.post(INFER, json=tensor(shape=shape)))
    assert error(post(client, *message(CONTENT, *shape)))


@pytest.mark.parametrize("size", [-1, 0, 1, len(CONTENT) - 1, len(CONTENT) + 1, 2**62, 2**64, 1.5, "192", None, True])
def test_sizes_of_binary_data_that_cannot_be(client: httpx.Client, size: Any) -> None:
    given = tensor(parameters={"binary_data_size": size})
    del given["inputs"][0]["data"]
    header = json.dumps(given).encode()
    assert error(client.post(INFER, content=header + CONTENT, headers={HEADER: str(len(header))}))


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": tensor()["inputs"] * 2},
        {"inputs": []},
        {"inputs": tensor(name="pictures")["inputs"]},
        {"inputs": tensor()["inputs"] + tensor(name="mask")["inputs"]},
        {"outputs": [{"name": "probabilities"}]},
        {"outputs": [{"name": "logits"}, {"name": "logits"}]},
    ],
    ids=["input twice", "no input", "unknown input", "unknown input beside", "unknown output", "output twice"],
)
def test_inputs_and_outputs_that_are_twice_or_not_there(client: httpx.Client, changes: dict[str, Any]) -> None:
    assert error(client.post(INFER, json=tensor() | changes))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("path", [INFER, CLASSIFY, "/v2/repository/index"])
def test_a_decompression_bomb(service: Operated, client: httpx.Client, encoding: str, path: str) -> None:
    plain = bytes(128 * MEGABYTE)
    bomb = gzip.compress(plain, 1) if encoding == "gzip" else zlib.compress(plain, 1)
    before = memory(service)
    response = client.post(path, content=bomb, headers={"Content-Encoding": encoding})
    assert "1,048,576 bytes" in error(response, 413)
    assert memory(service) - before < 32 * MEGABYTE


def test_chunks(client: httpx.Client) -> None:
    body, headers = message(CONTENT, *PIXELS.shape, **BINARY)
    _, contents = read(client.post(INFER, content=(body[i : i + 7] for i in range(0, len(body), 7)), headers=headers))
    assert len(contents["logits"]) == 4 * len(bundles.LABELS)
    assert error(client.post(INFER, content=(bytes(65536) for _ in range(64))), 413)


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n", b"5\r\nhel\r\n0\r\n\r\n", b"f" * 40 + b"\r\n"],
    ids=["no number", "negative", "short", "huge"],
)
def test_chunks_that_are_none(client: httpx.Client, chunks: bytes) -> None:
    base = client.base_url
    with socket.create_connection((base.host, base.port or 80), timeout=20) as connection:
        connection.sendall(
            f"POST {INFER} HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunks
        )
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer[:12] in (b"HTTP/1.1 400", b"")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "null"])
def test_json_that_is_not_finite(client: httpx.Client, value: str) -> None:
    text = json.dumps(tensor(datatype="FP32", data=[7.5] * PIXELS.size)).replace("7.5", value, 1)
    assert error(client.post(INFER, content=text))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tensors_that_are_not_finite(client: httpx.Client, value: float) -> None:
    values = np.full(PIXELS.shape, value, np.float32)
    response = post(client, *message(values.tobytes(), *PIXELS.shape, datatype="FP32", **BINARY))
    _, contents = read(response)
    assert not np.isfinite(np.frombuffer(contents["logits"], "<f4")).all()
    as_json = {"outputs": [{"name": "logits", "parameters": {"binary_data": False}}]}
    response = post(client, *message(values.tobytes(), *PIXELS.shape, datatype="FP32", **as_json))
    assert "binary" in response.json()["error"]
    assert "null" not in response.text


@pytest.mark.parametrize("count", [4, 1000, 2**31, 2**62])
def test_more_classes_than_there_are(client: httpx.Client, count: int) -> None:
    ranked = [bundles.LABELS[index] for index in np.argsort(-TINY.logits(PIXELS)[0])]
    response = client.post(CLASSIFY, params={"top_k": count}, content=png(PIXELS[0]))
    assert [entry["label"] for entry in response.json()["images"][0]["classes"]] == ranked
    asked = [{"name": "logits", "parameters": {"classification": count}}]
    response = client.post(INFER, json=tensor() | {"outputs": asked})
    assert [entry.rpartition(":")[2] for entry in response.json()["outputs"][0]["data"]] == ranked


# Names in paths


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../tiny",
        "%2e%2e",
        "%2e%2e%2ftiny",
        "..%2f..%2fetc%2fpasswd",
        "%2fetc%2fpasswd",
        "tiny%2f..%2ftiny",
        "tiny%2f1",
        "tiny%00",
        "%00",
        ".",
        "%5c..%5ctiny",
        "~root",
        "tiny%0d%0aX-Injected:%201",
        "a" * 5000,
        "%ff%fe",
    ],
)
def test_names_do_not_lead_out_of_the_repository(client: httpx.Client, name: str) -> None:
    base = client.base_url
    for method, path in (
        ("GET", f"/v2/models/{name}"),
        ("POST", f"/v2/models/{name}/infer"),
        ("POST", f"/v2/repository/models/{name}/load"),
        ("GET", f"/v2/models/tiny/versions/{name}"),
    ):
        # As it is: a client would tidy the path up.
        with socket.create_connection((base.host, base.port or 80), timeout=20) as connection:
            connection.sendall(
                f"{method} {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
            )
            head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        assert status in (400, 404, 405), (path, body)
        assert b"x-injected" not in head.lower()
        assert set(json.loads(body)) == {"error"}
        assert b"root:" not in body
