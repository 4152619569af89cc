"""Fixed places for each batch size. What is bound here lies on the CPU; on a GPU the same is in test_cuda.py."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest

from models.instrument import instrument
from models.statistics import layout
from service.runtime import bound
from service.runtime.bound import BoundSession, CaptureError, open_bound
from service.runtime.cuda import CudaOptions
from service.runtime.device_thread import DeviceThread, device_thread
from service.runtime.direct import DirectSession
from service.runtime.model import bucket_sizes
from service.runtime.provider import CPU
from service.runtime.sessions import Sessions
from tests.models import graphs

OUTPUTS = ["logits", *layout.output_widths(graphs.manifest("rectifier"))]
HOST = ("cpu", 0)
THREAD = DeviceThread()
# It owns the weights.
SESSIONS = Sessions(CPU, threads=1)


def opened() -> onnxruntime.InferenceSession:
    graph = instrument(graphs.graph("rectifier"), graphs.manifest("rectifier"))
    return SESSIONS.open(graph.SerializeToString())


def at_once(images: np.ndarray) -> list[np.ndarray]:
    """What each image gives alone, which no other can have an influence on."""
    session = opened()
    rows = [session.run(OUTPUTS, {"images": images[row : row + 1]}) for row in range(len(images))]
    return [np.concatenate(values) for values in zip(*rows, strict=True)]


@pytest.mark.parametrize("capture", [False, True])
def test_any_number_of_images_gives_what_each_gives_alone(capture: bool) -> None:
    session = BoundSession(opened(), THREAD, HOST, (1, 2, 4), capture)
    assert session.sizes == (1, 2, 4)
    # Filled up from 3; in parts from 5 on; small after large, so that what is left of the large one would show.
    for number in (4, 3, 1, 2, 5, 1, 11, 3):
        images = graphs.images(number, seed=number)
        for name, actual, expected in zip(OUTPUTS, session.run(OUTPUTS, images), at_once(images), strict=True):
            assert actual.shape == expected.shape
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6, err_msg=f"{name} of {number}")


def test_no_image_is_no_row() -> None:
    session = BoundSession(opened(), THREAD, HOST, (1, 2))
    assert [len(values) for values in session.run(OUTPUTS, graphs.images(0))] == [0] * len(OUTPUTS)


def test_images_that_fill_a_batch_up_are_black_and_of_no_earlier_request() -> None:
    session = BoundSession(opened(), THREAD, HOST, (4,))
    poisoned = graphs.images(3)
    poisoned[:] = np.nan
    assert not np.isfinite(session.run(["logits"], poisoned)[0]).any()
    assert np.isfinite(session.run(["logits"], graphs.images(1))[0]).all()
    # All rows that were run, those that nobody is given among them.
    (slot,) = session._slots.values()
    assert np.isfinite(slot._outputs["logits"].numpy()).all()


def test_answers_are_not_overwritten_by_the_next_run() -> None:
    session = BoundSession(opened(), THREAD, HOST, (2,))
    first = session.run(OUTPUTS, graphs.images(2, seed=1))
    copies = [values.copy() for values in first]
    session.run(OUTPUTS, graphs.images(2, seed=2))
    assert all(np.array_equal(values, copy) for values, copy in zip(first, copies, strict=True))


def test_many_threads_share_it() -> None:
    session = BoundSession(opened(), THREAD, HOST, (1, 2, 4))
    batches = [graphs.images(1 + seed % 6, seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda images: session.run(["logits"], images)[0], batches))
    for images, actual in zip(batches, results, strict=True):
        np.testing.assert_allclose(actual, at_once(images)[0], rtol=1e-5, atol=1e-6)


def test_all_runs_are_made_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    run = bound.Slot.run

    def noted(self: bound.Slot, *arguments: object) -> list[np.ndarray]:
        seen.add(threading.get_ident())
        return run(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bound.Slot, "run", noted)
    session = BoundSession(opened(), THREAD, HOST, (1, 2), capture=True)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: session.run(["logits"], graphs.images(2, seed)), range(20)))
    assert len(seen) == 1
    assert threading.get_ident() not in seen


class Limited:
    """A session that has no memory for more than some images, or answers wrongly when its runs are captured."""

    def __init__(self, most: int = 99, message: str = "Failed to allocate memory for requested buffer") -> None:
        self._session, self._most, self._message = opened(), most, message
        self.options: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: onnxruntime.IOBinding, options: onnxruntime.RunOptions) -> None:
        if binding.get_outputs()[0].shape()[0] > self._most:
            raise RuntimeError(self._message)
        self._session.run_with_iobinding(binding, options)


def test_sizes_that_have_no_room_are_left_out_and_larger_batches_run_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    session = BoundSession(Limited(2), THREAD, HOST, (1, 2, 4, 8))  # type: ignore[arg-type]
    assert session.sizes == (1, 2)
    assert "no memory for 4 images at once, only for 2" in caplog.text
    images = graphs.images(7)
    np.testing.assert_allclose(session.run(["logits"], images)[0], at_once(images)[0], rtol=1e-5, atol=1e-6)


def test_no_room_for_one_image_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="Failed to allocate"):
        BoundSession(Limited(0), THREAD, HOST, (1, 2))  # type: ignore[arg-type]


def test_another_failure_is_not_taken_for_missing_memory() -> None:
    with pytest.raises(RuntimeError, match="illegal address"):
        BoundSession(Limited(1, "an illegal address"), THREAD, HOST, (1, 2))  # type: ignore[arg-type]


class Stale(Limited):
    """Replays what it was captured with, whatever comes in."""

    def run_with_iobinding(self, binding: onnxruntime.IOBinding, options: onnxruntime.RunOptions) -> None:
        replays = options.get_run_config_entry("gpu_graph_id") != str(bound.NO_GRAPH)
        if not replays or not self.options:
            self._session.run_with_iobinding(binding, options)
        if replays:
            self.options.append("replayed")


def test_a_graph_that_does_not_read_its_input_is_found_out() -> None:
    with pytest.raises(CaptureError, match="of 1 images is another one in a CUDA graph"):
        BoundSession(Stale(), THREAD, HOST, (1,), capture=True)  # type: ignore[arg-type]


def fixed_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is meant for a GPU lie on the CPU."""
    allocate = bound._allocate
    monkeypatch.setattr(bound, "_allocate", lambda shape, _: allocate(shape, ("cpu", 0)))


@pytest.mark.parametrize("graphs_setting", ["auto", "on", "off"])
def test_a_model_that_cannot_be_captured(
    graphs_setting: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fixed_host(monkeypatch)
    asked: list[bool] = []

    def open_session(capture: bool) -> onnxruntime.InferenceSession:
        asked.append(capture)
        if capture:
            raise RuntimeError("not all nodes are on CUDA")
        return opened()

    options = CudaOptions(graphs=graphs_setting)  # type: ignore[arg-type]
    if graphs_setting == "on":
        with pytest.raises(RuntimeError, match="not all nodes"):
            open_bound(open_session, THREAD, options, (1, 2))
        return
    session = open_bound(open_session, THREAD, options, (1, 2))
    assert not session.captured
    assert asked == ([True, False] if graphs_setting == "auto" else [False])
    assert ("without CUDA graphs: not all nodes" in caplog.text) == (graphs_setting == "auto")
    assert len(session.run(["logits"], graphs.images(2))[0]) == 2


def test_a_model_that_can_be_captured_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    fixed_host(monkeypatch)
    assert open_bound(lambda _: opened(), THREAD, CudaOptions(), (1, 2)).captured
    assert not caplog.records


def test_memory_that_is_given_back_is_that_of_no_captured_graph() -> None:
    assert CudaOptions().captures
    assert not CudaOptions(arena_shrink=True).captures
    assert not CudaOptions(graphs="off").captures


def test_sizes_double_up_to_the_largest_batch() -> None:
    assert list(bucket_sizes(1)) == [1]
    assert list(bucket_sizes(32)) == [1, 2, 4, 8, 16, 32]
    assert list(bucket_sizes(48)) == [1, 2, 4, 8, 16, 32, 48]


def test_the_thread_may_call_itself_and_passes_errors_on() -> None:
    assert THREAD.call(lambda: THREAD.call(lambda: 3)) == 3
    with pytest.raises(ZeroDivisionError):
        THREAD.call(lambda: 1 // 0)
    assert device_thread() is device_thread()


def test_a_direct_session_can_be_run_in_that_thread() -> None:
    images = graphs.images(5)
    expected = DirectSession(opened()).run(OUTPUTS, images)
    for actual, values in zip(DirectSession(opened(), THREAD, "cpu:0").run(OUTPUTS, images), expected, strict=True):
        assert np.array_equal(actual, values)
