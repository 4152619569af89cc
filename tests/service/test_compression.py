"""Messages that are compressed, and answers for those who ask for it."""

import gzip
import threading
import zlib

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.compression import decompress
from tests import bundles
from tests.service.conftest import png
from tests.service.messages import INFER, error, message, post

Pixels = NDArray[np.uint8]


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
    logits = np.reshape(response.json()["outputs"][0]["data"], (4, 3))
    np.testing.assert_allclose(logits, tiny.logits(pixels), rtol=1e-4, atol=1e-4)


def test_bodies_are_decompressed_beside_the_event_loop(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def noting(content: bytes, encoding: str, limit: int) -> bytes:
        threads.append(threading.current_thread().name)
        return decompress(content, encoding, limit)

    monkeypatch.setattr("service.body.decompress", noting)
    client.post(INFER, content=gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})
    (name,) = threads
    assert name.startswith("AnyIO worker thread")


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
