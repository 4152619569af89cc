"""Lists of numbers in JSON: the quick way reads what the other reads, and leaves it everything else."""

import math

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.errors import BadRequestError
from service.protocol.numbers import holds_words
from service.protocol.tensors import read_json_tensor

SHAPE = (2, 1, 3)
NUMBERS = st.integers(0, 255) | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
ELEMENTS = NUMBERS | st.none() | st.text(max_size=2) | st.lists(st.integers(0, 3), max_size=2)
FLAT = st.lists(ELEMENTS, min_size=6, max_size=6) | st.lists(NUMBERS, max_size=7)
NESTED = st.lists(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=1), min_size=2, max_size=2)


def read(datatype: str, data: object, wordless: bool) -> np.ndarray | str:
    try:
        return read_json_tensor("x", datatype, SHAPE, data, wordless)
    except BadRequestError as error:
        return str(error)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["FP32", "UINT8"]), FLAT | NESTED)
@example("FP32", [0, 1, 2, 3, 4, 255])
@example("UINT8", [0, 1, 2, 3, 4, 256])
@example("UINT8", [0, 1, 2, 3, 4, 5.0])
@example("FP32", [0, 1, 2, 3, 4, 1e39])
@example("FP32", [0, 1, 2, 3, 4, 3.4028235677973366e38])
@example("FP32", [[[0, 1, 2]], [[3, 4.5, -5]]])
@example("FP32", [[[0, 1, 2]], [[3, 4.5]]])
@example("FP32", [[[0, 1, 2]], "abc"])
def test_both_ways_read_the_same(datatype: str, data: object) -> None:
    data = orjson.loads(orjson.dumps(data)) if _fits(data) else data
    quick, usual = read(datatype, data, wordless=True), read(datatype, data, wordless=False)
    if isinstance(usual, str):
        assert quick == usual
    else:
        assert isinstance(quick, np.ndarray)
        assert (quick.dtype, quick.shape) == (np.float32, SHAPE)
        np.testing.assert_allclose(quick, usual, rtol=2**-23 if _wide(data) else 0)


def _fits(data: object) -> bool:
    try:
        orjson.dumps(data)
    except orjson.JSONEncodeError:
        return False
    return True


def _wide(data: object) -> bool:
    """Integers that no double holds exactly are rounded twice on one of the ways."""
    return any(isinstance(value, int) and abs(value) > 2**53 for value in np.array(data, object).ravel())


@pytest.mark.parametrize("value", [0.1, 1 / 3, 255.00001, 1e-45, 3.4028234663852886e38, -0.0])
def test_numbers_are_rounded_once(value: float) -> None:
    tensor = read("FP32", [value] * 6, wordless=True)
    assert isinstance(tensor, np.ndarray)
    np.testing.assert_array_equal(tensor, np.full(SHAPE, np.float32(value)))
    assert math.copysign(1, float(tensor[0, 0, 0])) == math.copysign(1, value)


JSON = st.recursive(
    st.booleans() | st.none() | st.integers(-9, 9) | st.text(alphabet='aeflrstu"\\1', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet="flatrue", max_size=6), inner),
)


@settings(deadline=None)
@given(JSON)
@example({"data": [1, True]})
@example({"flu": "tru", "l": "fals"})
def test_words_are_found_wherever_they_stand(value: object) -> None:
    text = orjson.dumps(value)
    assert holds_words(text) == (b"true" in text or b"false" in text)
