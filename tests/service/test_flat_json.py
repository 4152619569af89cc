"""JSON with one flat list is read as all other JSON is: the same calls, the same errors."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.manifest import TensorSpec
from service.errors import BadRequestError
from service.protocol import inference
from service.protocol.inference import InferenceCall, read_request

SPEC = TensorSpec(name="images", datatype="FP32", shape=(-1, 3, 16, 16))
VALUES = list(range(256)) * 3
TENSOR = {"name": "images", "shape": [1, 3, 16, 16], "datatype": "FP32", "data": VALUES}


def read(body: bytes) -> InferenceCall | str:
    try:
        return read_request(body, SPEC, ("logits",), ("mean",), 4)
    except BadRequestError as error:
        return str(error)


def read_as_one(body: bytes, patch: pytest.MonkeyPatch) -> InferenceCall | str:
    with patch.context() as whole:
        whole.setattr(inference, "_read_flat", lambda *_: None)
        return read(body)


def assert_same(one: InferenceCall | str, other: InferenceCall | str) -> None:
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
        return
    assert np.array_equal(one.input, other.input)
    assert isinstance(one.input, np.ndarray)
    assert isinstance(other.input, np.ndarray)
    assert (one.input.dtype, one.input.shape) == (other.input.dtype, other.input.shape)
    assert one._replace(input=[]) == other._replace(input=[])


def of(tensor: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({**more, "inputs": [tensor]}).encode()


TEXT = of(TENSOR).decode()
BODIES: dict[str, bytes] = {
    "plain": TEXT.encode(),
    "without spaces": TEXT.replace(" ", "").encode(),
    "with lines": json.dumps({"inputs": [TENSOR]}, indent=1).encode(),
    "id, outputs": of(TENSOR, id="x", outputs=[{"name": "mean"}]),
    "uint8": of({**TENSOR, "datatype": "UINT8"}),
    "fractions": of({**TENSOR, "data": [value / 7 for value in VALUES]}),
    "beyond float32": of({**TENSOR, "data": [1e300, *VALUES[1:]]}),
    "uint8 beyond its range": of({**TENSOR, "datatype": "UINT8", "data": [256, *VALUES[1:]]}),
    "too few": of({**TENSOR, "data": VALUES[1:]}),
    "too many": of({**TENSOR, "data": [0] * 4000}),
    "words": of({**TENSOR, "data": [True, *VALUES[1:]]}),
    "null": of({**TENSOR, "data": [None, *VALUES[1:]]}),
    "strings": of({**TENSOR, "data": ["1", *VALUES[1:]]}),
    "nested": of({**TENSOR, "data": [VALUES]}),
    "nested at its end": of({**TENSOR, "data": [*VALUES[1:], [1]]}),
    "BYTES": of({"name": "images", "shape": [400], "datatype": "BYTES", "data": [1] * 400}),
    "wrong shape": of({**TENSOR, "shape": [1, 3, 16, 17]}),
    "unknown name": of({**TENSOR, "name": "pictures"}),
    "two inputs": json.dumps({"inputs": [TENSOR, {**TENSOR, "name": "b"}]}).encode(),
    "no input": json.dumps({"data": VALUES}).encode(),
    "binary size as well": of({**TENSOR, "parameters": {"binary_data_size": 3072}}),
    "data of something else": of({"name": "images", "shape": [1, 3, 16, 16], "datatype": "FP32"}, data=VALUES),
    "its name in the id": of(TENSOR, id='"data": [1'),
    "its name in a key": of(TENSOR, **{'x"data': VALUES}),
    "twice, empty behind": TEXT.replace("]}]}", '], "data": []}]}').encode(),
    "twice, empty before": TEXT.replace('"data"', '"data": [], "data"').encode(),
    "twice, escaped": TEXT.replace("]}]}", '], "d\\u0061ta": []}]}').encode(),
    "its data is empty, this is another": TEXT.replace('"data"', '"d\\u0061ta": [], "other": {"data"')
    .replace("]}]}", "]}}]}")
    .encode(),
    "beside an empty one": TEXT.replace('"data": [', '"d\\u0061ta": []}], "data": [').replace("]}]}", "]}").encode(),
    "objects in the list": of({**TENSOR, "data": [{"": {"": 0}}, *VALUES[1:]]}),
    "not ended": TEXT[:-3].encode(),
    "something behind": TEXT.encode() + b"]",
    "no comma": TEXT.replace("100, 101", "100 101").encode(),
    "empty": of({**TENSOR, "data": []}),
    "vertical tab": TEXT.replace('"data": [', '"data":\x0b[').encode(),
}


@pytest.mark.parametrize("name", BODIES)
def test_the_same_as_one_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = BODIES[name]
    assert_same(read(body), read_as_one(body, monkeypatch))
    assert_same(read(body), read_as_one(body, monkeypatch))  # what is around it is known now


def test_the_list_alone_is_read_again() -> None:
    assert isinstance(read(BODIES["plain"]), InferenceCall)
    before = inference._remembered_head.cache_info()
    other = read(of({**TENSOR, "data": VALUES[::-1]}))
    after = inference._remembered_head.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)
    assert isinstance(other, InferenceCall)
    assert isinstance(other.input, np.ndarray)
    assert other.input.ravel().tolist() == VALUES[::-1]


def test_objects_are_counted_before_they_are_made() -> None:
    tracemalloc.start()
    deep = b'{"":' * 200 + b"0" + b"}" * 200
    message = read(TEXT.replace("[0, 1", "[" + ",".join([deep.decode()] * 500)).encode())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "objects" in str(message)
    assert peak < 5_000_000


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, len(TEXT)),
    st.integers(0, 12),
    st.sampled_from([b"", b"]", b"[", b'"', b",", b'"data": [', b"], [", b"1", b"e", b"-", b"{", b"}", b"\\", b"true"]),
)
def test_whatever_is_damaged_is_read_the_same(start: int, size: int, put: bytes) -> None:
    content = TEXT.encode()
    # As often in the text around the list as in the list, which is much longer.
    for at in (start, start % 80, len(content) - start % 12):
        body = content[:at] + put + content[at + size :]
        with pytest.MonkeyPatch.context() as patch:
            assert_same(read(body), read_as_one(body, patch))
