"""How the runs of a model are cut."""

import time
from collections.abc import Sequence

import pytest
from numpy.typing import NDArray

from service.batching.plan import CPU_SIZES, LONGEST_TURN, plan
from service.runtime.model import LoadedModel
from tests.service import watched
from tests.service.scheduled import LOGITS


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return watched.load()


class Paced:
    """A CPU model of which an image in a batch takes this share of the time that it takes alone."""

    provider = "CPUExecutionProvider"
    output_names = LOGITS
    run_seconds = 0.002

    def __init__(self, model: LoadedModel, share: float) -> None:
        self.manifest = model.manifest
        self._share = share

    def run(self, tensor: NDArray, _: Sequence[str]) -> None:
        time.sleep(self.run_seconds * len(tensor) * (1 if len(tensor) == 1 else self._share))


def test_requests_are_merged_where_that_was_measured_to_help(model: LoadedModel) -> None:
    faster, even, slower = Paced(model, 0.5), Paced(model, 0.9), Paced(model, 1.5)
    assert plan(faster, "auto", 32, 0.001).sizes[-1] > 1
    assert plan(even, "auto", 32, 0.001).sizes == (1,)
    assert plan(faster, "off", 32, 0.001).sizes == (1,)
    assert plan(slower, "on", 32, 0.001).sizes == CPU_SIZES
    # Short ones are merged where that is not slower.
    assert plan(even, "auto", 32, 0.02).sizes == CPU_SIZES
    assert plan(slower, "auto", 32, 0.02).sizes == (1,)
    # No merged run on the event loop's thread is longer than a turn may be, nor larger than the largest batch.
    even.run_seconds = LONGEST_TURN / 3
    assert plan(even, "on", 32, 0.01).sizes == (1, 2)
    assert plan(slower, "on", 4, 0.02).sizes == (1, 2, 4)
    # What takes too long to measure is not merged.
    faster.run_seconds = 1.0
    assert plan(faster, "auto", 32, 0.0).sizes == (1,)


def test_a_load_that_was_disturbed_merges_nothing_unmeasured(model: LoadedModel) -> None:
    slower = Paced(model, 2.5)
    run = slower.run
    slower.run_seconds = 0.001
    disturbed = Paced(model, 2.5)
    disturbed.run, disturbed.run_seconds = run, 0.04  # as it was measured while others loaded
    assert plan(disturbed, "auto", 32, 0.005).sizes == (1,)


def test_on_a_gpu_requests_fill_the_sizes_that_were_warmed(model: LoadedModel) -> None:
    device = Paced(model, 1.0)
    device.provider, device.buckets = "CUDAExecutionProvider", (1, 2, 4, 8, 16)
    assert plan(device, "auto", 16, 0.0)[1:] == ((1, 2, 4, 8, 16), 16, frozenset(LOGITS), True)
    assert plan(device, "off", 16, 0.0).sizes == (1,)
    assert plan(device, "auto", 16, 0.0).size(3) == 16


def test_a_model_is_short_even_if_the_machine_was_busy_while_it_loaded(model: LoadedModel) -> None:
    busy = Paced(model, 1.0)
    busy.run_seconds = 0.02  # as it was measured then
    busy.run = model.run
    assert plan(busy, "off", 32, 0.005).seconds < 0.005
