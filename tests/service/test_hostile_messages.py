"""Messages made to break what reads them: answered with less than 500, and never with more memory than they bring."""

import contextlib
import gzip
import json
import struct
import tracemalloc
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models.manifest import TensorSpec
from service.compression import decompress
from service.errors import BadRequestError, BodyTooLargeError
from service.protocol.inference import InferenceCall, read_request, write_response

SPEC = TensorSpec(name="images", datatype="FP32", shape=(-1, 1, 2, 2))
OUTPUTS, STATISTICS = ["logits"], ["statistics.mean"]
HEADER = "Inference-Header-Content-Length"
MAX_BATCH = 3
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
ODD = (
    st.sampled_from([0, 1, 2, 3, -1, 2**31, 2**63, 2**64, 1e9, "1", [], {}, [[]], ["x"], "BYTES", "INT64", True, None])
    | JSON
)
NUMBERS = np.array([0, -1.5, np.nan, 255])
IMAGE = b"no image"
ELEMENT = struct.pack("<I", len(IMAGE)) + IMAGE
GOOD = [
    ("FP32", [1, 1, 2, 2], NUMBERS.astype("<f4").tobytes()),
    ("FP16", [1, 1, 2, 2], NUMBERS.astype("<f2").tobytes()),
    ("UINT8", [3, 1, 2, 2], bytes(range(12))),
    ("BYTES", [2, 1], ELEMENT * 2),
    ("BYTES", [1], ELEMENT),
]
DATA = {"FP32": [0, -1.5, 2, 255], "FP16": [], "UINT8": list(range(12)), "BYTES": ["eA=="]}
PLACES: list[tuple[str | int, ...]] = [
    ("id",),
    ("parameters",),
    ("parameters", "binary_data_output"),
    ("inputs",),
    ("inputs", 0),
    *(("inputs", 0, key) for key in ("name", "shape", "datatype", "parameters", "data")),
    ("inputs", 0, "shape", 0),
    *(("inputs", 0, "parameters", key) for key in ("binary_data_size", "shared_memory_region", "")),
    ("outputs",),
    ("outputs", 0),
    *(("outputs", 0, key) for key in ("name", "parameters")),
    *(("outputs", 0, "parameters", key) for key in ("binary_data", "classification")),
]


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """A body, and the values of its header: good but in a few places, or none."""
    datatype, shape, content = draw(st.sampled_from(GOOD))
    tensor: dict[str, Any] = {"name": "images", "shape": list(shape), "datatype": datatype}
    if draw(st.booleans()):
        tensor["parameters"] = {"binary_data_size": len(content)}
    else:
        tensor |= {"data": DATA[datatype], "parameters": {}}
        content = b""
    asked = draw(st.lists(st.sampled_from(OUTPUTS + STATISTICS), max_size=2, unique=draw(st.booleans())))
    outputs: list[dict[str, Any]] = [{"name": name, "parameters": {}} for name in asked]
    request = {"inputs": [tensor], "parameters": {"binary_data_output": draw(st.booleans())}, "outputs": outputs}
    for place in draw(st.lists(st.sampled_from(PLACES), max_size=2)):
        put(request, place, draw(ODD))
    head = json.dumps(request).encode()
    body = head + draw(st.just(content) | st.binary(max_size=20))
    wrong = st.integers(-3, len(body) + 3).map(str) | st.text(max_size=5)
    return body, draw(st.just([str(len(head))]) | st.just([str(len(head))]) | st.lists(wrong, max_size=2))


def put(request: Any, place: tuple[str | int, ...], value: Any) -> None:
    """Replace what is there, where there is such a place."""
    *path, last = place
    with contextlib.suppress(KeyError, IndexError, TypeError):
        for key in path:
            request = request[key]
        request[last] = value


def read(body: bytes, lengths: list[str]) -> InferenceCall | None:
    try:
        return read_request(body, SPEC, OUTPUTS, STATISTICS, MAX_BATCH, lengths)
    except BadRequestError:
        return None


def well_formed(content: bytes, **more: Any) -> tuple[bytes, list[str]]:
    tensor = {
        "name": "images",
        "shape": [1, 1, 2, 2],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(content)},
    }
    head = json.dumps({"inputs": [{**tensor, **more}]}).encode()
    return head + content, [str(len(head))]


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(messages())
@example(well_formed(np.full(4, np.nan, "<f4").tobytes()))
@example((bytes(16), ["0"]))
def test_any_message_is_read_or_refused(message: tuple[bytes, list[str]]) -> None:
    call = read(*message)
    if call is None:
        return
    if isinstance(call.input, list):
        assert 1 <= len(call.input) <= MAX_BATCH
        rows = len(call.input)
    else:
        assert call.input.dtype == np.float32
        assert call.input.shape[1:] == SPEC.shape[1:]
        assert call.input.flags.aligned
        rows = len(call.input)
    assert set(call.outputs) <= {*OUTPUTS, *STATISTICS}
    values = {name: np.full((rows, 3), np.nan, np.float32) for name in call.outputs}
    try:
        reply = write_response(call, "tiny", 1, "CPU", values, {"logits": ["a", "b", "c"]})
    except BadRequestError:
        return
    answer = json.loads(reply.body[: reply.json_length])
    assert answer["outputs"][0]["shape"][0] == rows


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """A message that `tiny` would understand, but for a few bytes or its header."""
    body, lengths = well_formed(bytes(192), shape=[1, 3, 8, 8], datatype="UINT8")
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(body)))
        body = body[:start] + draw(st.binary(max_size=3)) + body[start + draw(st.integers(0, 3)) :]
    wrong = st.integers(-3, len(body) + 3).map(str) | st.sampled_from(["", "-0", "0x10", "1,2", "9" * 5000])
    return body, draw(st.just(lengths) | st.lists(wrong, max_size=2))


@settings(deadline=None, max_examples=150)
@given(message=damaged(), encoding=st.sampled_from([None, None, "gzip"]))
def test_any_message_gets_an_answer(
    client: httpx.Client, message: tuple[bytes, list[str]], encoding: str | None
) -> None:
    body, lengths = message
    headers = [(HEADER, value) for value in lengths]
    if encoding:
        headers.append(("Content-Encoding", encoding))
    response = client.post("/v2/models/tiny/infer", content=gzip.compress(body) if encoding else body, headers=headers)
    assert response.status_code in (200, 400, 404)
    if response.status_code != 200:
        assert set(response.json()) == {"error"}
        assert 0 < len(response.json()["error"]) < 1000


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]), st.integers(0, 300), st.data())
def test_what_is_compressed_and_then_cut_or_changed(
    content: bytes, encoding: str, limit: int, data: st.DataObject
) -> None:
    compressed = bytearray(gzip.compress(content) if encoding == "gzip" else zlib.compress(content))
    if data.draw(st.booleans()):
        compressed = compressed[: data.draw(st.integers(0, len(compressed)))]
    if compressed and data.draw(st.booleans()):
        compressed[data.draw(st.integers(0, len(compressed) - 1))] ^= data.draw(st.integers(0, 255))
    with contextlib.suppress(BadRequestError, BodyTooLargeError):
        assert len(decompress(bytes(compressed), encoding, limit)) <= limit


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_what_is_compressed_comes_back(content: bytes, encoding: str) -> None:
    compressed = gzip.compress(content) if encoding == "gzip" else zlib.compress(content)
    assert decompress(compressed, encoding, len(content)) == content
    if content:
        with pytest.raises(BodyTooLargeError, match="more than"):
            decompress(compressed, encoding, len(content) - 1)


HUGE = {
    "huge shape": well_formed(bytes(16), shape=[3, 2**40, 2**40, 2**40]),
    "huge size": well_formed(bytes(16), parameters={"binary_data_size": 2**62}),
    "huge element": well_formed(struct.pack("<I", 2**32 - 1), datatype="BYTES", shape=[1]),
    "many elements": well_formed(bytes(4 << 20), datatype="BYTES", shape=[3]),
    "huge number of elements": well_formed(bytes(16), datatype="BYTES", shape=[2**62]),
    "huge header": (b"{}", [str(2**60)]),
    "huge classification": (
        json.dumps(
            {
                "inputs": [{"name": "images", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [0, 0, 0, 0]}],
                "outputs": [{"name": "logits", "parameters": {"classification": 2**62}}],
            }
        ).encode(),
        [],
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_sizes_that_are_claimed_take_no_memory(name: str) -> None:
    tracemalloc.start()
    try:
        read(*HUGE[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(HUGE[name][0]) + (1 << 20)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_takes_no_more_memory_than_the_limit(encoding: str) -> None:
    bomb = gzip.compress(bytes(256 << 20)) if encoding == "gzip" else zlib.compress(bytes(256 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLargeError, match="more than"):
            decompress(bomb, encoding, 8 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


def test_a_tensor_that_lies_well_is_not_copied() -> None:
    content = np.arange(12, dtype="<f4").tobytes()
    for padding in range(4):
        body, lengths = well_formed(content, shape=[3, 1, 2, 2], name="images")
        body, lengths = b" " * padding + body, [str(int(lengths[0]) + padding)]
        call = read(body, lengths)
        assert call is not None
        assert isinstance(call.input, np.ndarray)
        whole = np.frombuffer(body, np.uint8)
        start = len(body) - len(content)
        assert np.shares_memory(call.input, whole) == ((whole.ctypes.data + start) % 4 == 0)
        assert call.input.tobytes() == content
