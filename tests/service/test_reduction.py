"""The compiled pass against NumPy in float64, for any layout, shape, sign and value."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.runtime.reduction import TENSOR, reduce_tensors

Values = NDArray[np.float64]

SITE = ("mean", "mean_square", "active", "maximum", "minimum", "saturated")
BELOW, ABOVE = np.float32(-0.5), np.float32(0.75)
CHANNELS = (1, 3, 8, 16, 24)


def laid_out(x_NCP: NDArray[np.float32], block: int, padding: float = 7.0) -> NDArray[np.float32]:
    """The memory of a tensor in blocks of channels; padding holds numbers that would be noticed."""
    images, channels, positions = x_NCP.shape
    blocks = -(-channels // block)
    padded = np.full((images, blocks * block, positions), padding, np.float32)
    padded[:, :channels] = x_NCP
    return padded.reshape(images, blocks, block, positions).transpose(0, 1, 3, 2).ravel()


def reduced(
    x_NCP: NDArray[np.float32], block: int, shortcut_NCP: NDArray[np.float32] | None = None, signed: bool = True
) -> dict[str, NDArray[np.float32]]:
    """What the compiled pass says, by field of `TENSOR`."""
    images, channels, positions = x_NCP.shape
    parts = [laid_out(x, block) for x in (x_NCP, shortcut_NCP) if x is not None]
    row = np.full(1, -1, np.int64).astype(TENSOR)
    row["start"], row["size"], row["channels"] = 0, parts[0].size // images, channels
    row["positions"], row["block"] = positions, block
    row["below"], row["above"] = BELOW, ABOVE
    for index, field in enumerate((*SITE, "inactive")):
        row[field] = index * channels
    if not signed:
        row["minimum"] = -1
    if shortcut_NCP is not None:
        row["shortcut"] = row["size"]
        row["branch_energy"], row["shortcut_energy"] = 7 * channels, 7 * channels + 1
    results = np.zeros((images, 7 * channels + 2), np.float32)
    # In two shares, as two threads would.
    reduce_tensors(np.concatenate(parts), row, 0, images // 2, results)
    reduce_tensors(np.concatenate(parts), row, images // 2, images, results)
    found = {
        field: results[:, index * channels : (index + 1) * channels] for index, field in enumerate((*SITE, "inactive"))
    }
    return found | {"branch_energy": results[:, -2], "shortcut_energy": results[:, -1]}


def oracle(x_NCP: NDArray[np.float32]) -> dict[str, Values]:
    x = x_NCP.astype(np.float64)
    return {
        "mean": x.mean(2),
        "mean_square": (x * x).mean(2),
        "active": (x > 0).mean(2),
        "maximum": x.max(2),
        "minimum": x.min(2),
        "saturated": ((x <= BELOW) | (x >= ABOVE)).mean(2),
        "inactive": (x <= 0).mean(2),
    }


def check(x_NCP: NDArray[np.float32], actual: dict[str, NDArray[np.float32]]) -> None:
    expected = oracle(x_NCP)
    # A mean may be anything beside the terms that it is the difference of.
    scale = np.abs(x_NCP.astype(np.float64)).mean(2)
    assert (np.abs(actual["mean"] - expected["mean"]) <= 1e-6 * scale).all()
    np.testing.assert_allclose(actual["mean_square"], expected["mean_square"], rtol=1e-6, atol=0)
    for field in ("active", "saturated", "inactive"):
        np.testing.assert_allclose(actual[field], expected[field], rtol=0, atol=1e-7, err_msg=field)
    for field in ("maximum", "minimum"):
        np.testing.assert_array_equal(actual[field], expected[field], err_msg=field)


def normal(*shape: int, seed: int = 0, mean: float = 0.0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(mean, 1, shape).astype(np.float32)


@pytest.mark.parametrize("positions", [1, 4, 7, 49, 64, 65, 1023, 1025])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("block", [1, 8, 16])
def test_every_statistic_equals_float64(block: int, channels: int, positions: int) -> None:
    x, shortcut = normal(3, channels, positions), normal(3, channels, positions, seed=1)
    actual = reduced(x, block, shortcut)
    check(x, actual)
    change = x.astype(np.float64) - shortcut
    np.testing.assert_allclose(actual["branch_energy"], (change**2).mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(actual["shortcut_energy"], (shortcut.astype(np.float64) ** 2).mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize("block", [1, 8, 16])
@pytest.mark.parametrize("mean", [0.1, 3.0, -1000.0])
def test_large_maps_stay_within_a_millionth(block: int, mean: float) -> None:
    x = normal(1, 8, 224 * 224, mean=mean)
    check(x, reduced(x, block))


@pytest.mark.parametrize("block", [1, 8, 16])
@pytest.mark.parametrize("value", [0.1, -1 / 3, 1e-30, 1e15])
def test_equal_values_whose_rounding_errors_all_have_one_sign(block: int, value: float) -> None:
    x = np.full((1, 16, 224 * 224), value, np.float32)
    x[0, 3] = -x[0, 3]
    actual = reduced(x, block)
    expected = oracle(x)
    np.testing.assert_allclose(actual["mean"], expected["mean"], rtol=1e-6)
    if value > 1e-20:  # the square of the other is no float32
        np.testing.assert_allclose(actual["mean_square"], expected["mean_square"], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("block", [1, 8, 16])
def test_a_bad_value_spoils_its_own_channel_and_no_other(block: int, channels: int, bad: float) -> None:
    for positions in (5, 64, 1030):
        for place in (0, positions // 2, positions - 1):
            x = normal(2, channels, positions)
            spoiled = channels // 2
            x[1, spoiled, place] = bad
            actual = reduced(x, block)
            finite = np.isfinite(actual["mean_square"])
            assert np.argwhere(~finite).tolist() == [[1, spoiled]]
            good = np.delete(x[1:], spoiled, axis=1)
            check(x[:1], {field: values[:1] for field, values in actual.items()})
            if channels > 1:
                check(good, {field: np.delete(actual[field][1:], spoiled, axis=1) for field in (*SITE, "inactive")})


def test_a_bad_padding_spoils_nothing() -> None:
    x = normal(1, 3, 10)
    for padding in (np.nan, np.inf):
        memory = laid_out(x, 8, padding)
        row = np.full(1, -1, np.int64).astype(TENSOR)
        row["start"], row["shortcut"], row["size"], row["channels"], row["positions"], row["block"] = 0, 0, 80, 3, 10, 8
        row["branch_energy"], row["shortcut_energy"] = 0, 1
        results = np.zeros((1, 2), np.float32)
        reduce_tensors(memory, row, 0, 1, results)
        np.testing.assert_allclose(results, [[0, (x.astype(np.float64) ** 2).mean()]], rtol=1e-6)


def test_the_smallest_numbers_are_active_and_zeros_are_not() -> None:
    smallest = np.float32(1e-45)
    x = np.array([[[0.0, -0.0, smallest, -smallest]]], np.float32)
    assert reduced(x, 1)["active"].item() == 0.25
    assert reduced(x.repeat(8, 1), 8)["active"].tolist() == [[0.25] * 8]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 8, 16]), st.integers(1, 40), st.integers(1, 300), st.booleans(), st.data())
def test_any_shape_and_scale(block: int, channels: int, positions: int, signed: bool, data: st.DataObject) -> None:
    scale = data.draw(st.sampled_from([1e-6, 1.0, 1e6]))
    seed = data.draw(st.integers(0, 2**32 - 1))
    x = np.float32(scale) * normal(2, channels, positions, seed=seed)
    x[data.draw(st.integers(0, 1)), data.draw(st.integers(0, channels - 1))] = 0
    if not signed:
        x = np.abs(x)
    actual = reduced(x, block, signed=signed)
    if not signed:
        actual |= {"minimum": x.min(2)}
    check(x, actual)


PROGRAM = """
import sys
import numpy as np
from service.runtime.reduction import TENSOR, code, reduce_tensors
row = np.full(1, -1, np.int64).astype(TENSOR)
row["start"], row["size"], row["channels"], row["positions"], row["block"] = 0, 4, 1, 4, 1
for column, field in enumerate(("mean", "mean_square", "active", "maximum")):
    row[field] = column
results = np.zeros((1, 4), np.float32)
reduce_tensors(np.array([1, 2, 3, 6], np.float32), row, 0, 1, results)
assert results.tolist() == [[3, 12.5, 1, 6]], results
print(code().file, "numba" in sys.modules)
"""


def computed(cache: str) -> list[str]:
    """Where a process keeps the machine code, and whether it needed numba."""
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, env=environment, stdout=subprocess.PIPE, text=True
    )
    return run.stdout.split()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a first start keeps: compiling takes seconds, so once for all tests."""
    cache = tmp_path_factory.mktemp("compiled")
    file, with_numba = computed(str(cache))
    assert with_numba == "True"
    assert [entry.name for entry in cache.iterdir()] == [Path(file).name]
    return Path(file)


def kept(compiled: Path, cache: Path) -> Path:
    """The same in a folder of its own, as a process would have left it."""
    return Path(shutil.copy(compiled, cache))


def test_where_nothing_can_be_written_it_is_compiled_in_memory() -> None:
    assert computed("/proc/no/such/place") == ["None", "True"]


def test_it_is_compiled_once_and_again_where_its_file_is_damaged(compiled: Path, tmp_path: Path) -> None:
    file = kept(compiled, tmp_path)
    assert computed(str(tmp_path)) == [str(file), "False"]
    file.write_bytes(file.read_bytes()[:-1])
    assert computed(str(tmp_path)) == [str(file), "True"]
    assert computed(str(tmp_path)) == [str(file), "False"]
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


THREADS = """
import sys
from threading import Barrier, Thread
from service.runtime.reduction import code
together, found = Barrier(8), []
def load():
    together.wait()
    found.append(code())
threads = [Thread(target=load) for _ in range(8)]
sys.setswitchinterval(1e-6)
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(found) == 8
print(len(set(map(id, found))))
"""


def test_threads_that_run_it_first_together_run_the_same(compiled: Path) -> None:
    """What one of them had for itself would be gone when it ends, and others be called into it."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(compiled.parent)}
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", THREADS], check=True, env=environment, stdout=subprocess.PIPE)
        assert run.stdout.split() == [b"1"]


@pytest.mark.parametrize("open_to_others", ["file", "folder", "link"])
def test_code_that_others_may_have_written_is_not_run(compiled: Path, tmp_path: Path, open_to_others: str) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    file = kept(compiled, cache)
    if open_to_others == "file":
        file.chmod(0o666)
    elif open_to_others == "folder":
        cache.chmod(0o777)
    else:
        file.symlink_to(file.replace(tmp_path / file.name))
    assert computed(str(cache))[1] == "True"
