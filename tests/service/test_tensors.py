"""The wire format of tensors, without HTTP."""

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.manifest import TensorSpec
from service.errors import BadRequestError
from service.protocol.binary import read_elements, write_elements
from service.protocol.classification import ranked
from service.protocol.inference import InferenceCall, Wanted, read_request, write_response
from service.protocol.tensors import read_json_tensor, write_json_tensor

SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, max_side=4)
FINITE = {"allow_nan": False, "allow_infinity": False}


@settings(deadline=None)
@given(arrays.arrays(np.float32, SHAPES, elements=st.floats(width=32, **FINITE)), st.booleans())
def test_every_float_survives_the_wire_exactly(tensor: np.ndarray, nested: bool) -> None:
    sent = orjson.loads(orjson.dumps(write_json_tensor("x", tensor), option=orjson.OPT_SERIALIZE_NUMPY))
    assert (sent["name"], sent["datatype"], sent["shape"]) == ("x", "FP32", list(tensor.shape))
    data = np.reshape(sent["data"], tensor.shape).tolist() if nested else sent["data"]
    received = read_json_tensor("x", "FP32", sent["shape"], data)
    np.testing.assert_array_equal(received, tensor)
    assert received.dtype == np.float32


@settings(deadline=None)
@given(arrays.arrays(np.uint8, SHAPES))
def test_every_pixel_value_survives_the_wire(tensor: np.ndarray) -> None:
    np.testing.assert_array_equal(read_json_tensor("x", "UINT8", tensor.shape, tensor.tolist()), tensor)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_json_cannot_carry_what_is_not_finite(value: float) -> None:
    with pytest.raises(BadRequestError, match="binary"):
        write_json_tensor("x", np.array([1, value], np.float32))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(**FINITE) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.sampled_from(["FP32", "UINT8"]), JSON)
def test_any_json_gives_a_tensor_or_a_bad_request(datatype: str, data: object) -> None:
    try:
        tensor = read_json_tensor("x", datatype, [1, 2, 2], data)
    except BadRequestError:
        return
    np.testing.assert_array_equal(tensor.ravel(), np.ravel(data).astype(np.float32))


def test_half_precision_travels_as_bytes_alone() -> None:
    values = {"logits": np.array([[1.5, np.inf]], np.float16)}
    call = InferenceCall(None, [], (Wanted("logits", binary=True),), ("logits",))
    body, length = write_response(call, "m", 1, "CPU", values, {})
    (output,) = orjson.loads(body[:length])["outputs"]
    assert (output["datatype"], output["shape"]) == ("FP16", [1, 2])
    np.testing.assert_array_equal(np.frombuffer(body[length:], "<f2"), values["logits"][0])
    with pytest.raises(BadRequestError, match="never travels as JSON"):
        write_json_tensor("logits", values["logits"])


@given(st.lists(st.text()))
def test_every_string_survives_the_wire(strings: list[str]) -> None:
    content = memoryview(write_elements(strings))
    assert read_elements("x", len(strings), content) == [string.encode() for string in strings]


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 5))), st.integers(1, 7), st.booleans())
def test_the_largest_values_come_first(values: np.ndarray, count: int, labelled: bool) -> None:
    labels = [f"class:{index}" for index in range(values.shape[1])] if labelled else []
    shape, strings = ranked(values, labels, count)
    expected = []
    for row in values.tolist():
        order = sorted(range(len(row)), key=lambda index: (row[index] != row[index], -row[index], index))[:count]
        expected += [f"{row[index]:f}:{index}" + (f":class:{index}" if labelled else "") for index in order]
    assert shape == (len(values), min(count, values.shape[1]))
    assert strings == expected


IMAGES = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))


def asking(**parameters: object) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    return orjson.dumps({"inputs": [tensor], "parameters": parameters})


@pytest.mark.parametrize(
    ("parameters", "priority", "timeout_us"),
    [({}, 0, None), ({"priority": 3, "timeout": 1500}, 3, 1500), ({"priority": 0, "timeout": 0}, 0, None)],
)
def test_priority_and_timeout_are_read(parameters: dict[str, int], priority: int, timeout_us: int | None) -> None:
    call = read_request(asking(**parameters), IMAGES, ["y"], [], max_batch=1)
    assert (call.priority, call.timeout_us) == (priority, timeout_us)


@pytest.mark.parametrize("name", ["priority", "timeout"])
@pytest.mark.parametrize("value", [-1, 1.5, "1", True, None, 2**63])
def test_a_wrong_priority_or_timeout_is_named(name: str, value: object) -> None:
    with pytest.raises(BadRequestError, match=rf"parameters\.{name}"):
        read_request(asking(**{name: value}), IMAGES, ["y"], [], max_batch=1)
