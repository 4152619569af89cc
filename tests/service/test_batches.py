"""Runs that several requests share: what each gets, and what one does to the others."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.batching.entry import Ran
from service.batching.terms import Terms
from service.errors import (
    DeviceMemoryError,
    ModelFaultError,
)
from service.runtime.model import LoadedModel, Tensors
from tests.service import watched
from tests.service.scheduled import BOUND, LOGITS, PLACES, Spied, all_of, images, run, scheduler


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return watched.load()


@PLACES
def test_requests_that_wait_share_a_run_and_each_gets_its_own(model: LoadedModel, short: float) -> None:
    spied, requests = Spied(model), [images(1, seed) for seed in range(9)]

    async def infer() -> list[Ran]:
        waiting = scheduler(short)
        waiting.prepare(spied)
        spied.runs.clear()
        rans = await all_of(*(waiting.infer(spied, request, LOGITS) for request in requests))
        await waiting.close()
        return rans

    rans = run(infer)
    for request, ran in zip(requests, rans, strict=True):
        np.testing.assert_allclose(ran.values["logits"], model.run(request, LOGITS)["logits"], rtol=BOUND, atol=BOUND)
    # On the loop's thread all nine waited when the first run began; in threads the first began at once.
    if short:
        assert spied.batches == [8, 1]
    else:
        assert spied.batches == [1, 8]
    assert sum(ran.runs for ran in rans) == len(spied.batches)
    assert [ran.batch for ran in rans] == [batch for batch in spied.batches for _ in range(batch)]
    assert all(ran.queue_ns >= 0 and ran.infer_ns > 0 for ran in rans)


@PLACES
def test_what_differs_is_never_merged(model: LoadedModel, short: float) -> None:
    spied, other = Spied(model), Spied(watched.load())
    seen: list[Tensors] = []
    statistics = ("logits", "statistics.mean")

    async def infer() -> list[Ran]:
        waiting = scheduler(short)
        for each in (spied, other):
            waiting.prepare(each)
            each.runs.clear()
        rans = await all_of(
            *(
                waiting.infer(*arguments)
                for _ in range(2)
                for arguments in (
                    (spied, images(1), LOGITS),
                    (other, images(1), LOGITS),
                    (spied, images(1), statistics),
                    (spied, images(1), LOGITS, Terms(), lambda _, values: seen.append(values)),
                    (spied, images(1), ("statistics.mean",)),
                )
            )
        )
        await waiting.close()
        return rans

    rans = run(infer)
    assert not any(isinstance(ran, Exception) for ran in rans)
    # Plain runs hold plain requests, of one model.
    assert all(outputs == LOGITS for _, outputs in other.runs)
    plain = [images for images, outputs in spied.runs if outputs == LOGITS]
    instrumented = [images for images, outputs in spied.runs if set(outputs) <= set(statistics)]
    everything = [images for images, outputs in spied.runs if len(outputs) > 2]
    assert sum(plain) == 2
    assert sum(instrumented) - sum(plain) == 4
    # Those that are watched by somebody are watched alone.
    assert everything == [1, 1]
    assert [values["logits"].shape[0] for values in seen] == [1, 1]


def test_different_outputs_in_one_run(model: LoadedModel) -> None:
    spied = Spied(model)
    asked = [("statistics.mean",), ("logits", "statistics.active"), ("statistics.branch_energy", "statistics.mean")]

    async def infer() -> list[Ran]:
        waiting = scheduler()
        waiting.prepare(spied)
        spied.runs.clear()
        requests = (waiting.infer(spied, images(1, seed), outputs) for seed, outputs in enumerate(asked))
        return await all_of(*requests, waiting.infer(spied, images(1, 3), asked[0]))

    rans = run(infer)
    assert spied.batches == [4]
    for seed, (ran, outputs) in enumerate(zip(rans, [*asked, asked[0]], strict=True)):
        assert tuple(ran.values) == outputs
        alone = model.run(images(1, seed), outputs)
        for name in outputs:
            np.testing.assert_allclose(ran.values[name], alone[name], rtol=BOUND, atol=BOUND)


@PLACES
def test_one_bad_image_fails_alone(model: LoadedModel, short: float) -> None:
    def fail_at_seven(tensor: NDArray) -> None:
        if (tensor[:, 0, 0, 0] == 7).any():
            raise ModelFaultError("it failed on purpose")

    spied = Spied(model)
    requests = [images(1, seed) for seed in range(4)]
    for request in requests:
        request[:, 0, 0, 0] = 0
    requests[2][:, 0, 0, 0] = 7

    async def infer() -> tuple[list[Any], list[Any]]:
        waiting = scheduler(short)
        waiting.prepare(spied)
        spied.before = fail_at_seven
        results = await all_of(*(waiting.infer(spied, request, LOGITS) for request in requests))
        parts = await waiting.infer_each(spied, requests, LOGITS)
        await waiting.close()
        return results, parts

    for results in run(infer):
        assert [type(result) for result in results] == [Ran, Ran, ModelFaultError, Ran]
        for request, ran in zip(requests, results, strict=True):
            if isinstance(ran, Ran):
                np.testing.assert_array_equal(ran.values["logits"], model.run(request, LOGITS)["logits"])


def test_nan_stays_with_its_image(model: LoadedModel) -> None:
    spied, requests = Spied(model), [images(1, seed) for seed in range(4)]
    requests[1][...] = np.nan

    async def infer() -> list[Ran]:
        waiting = scheduler()
        waiting.prepare(spied)
        spied.runs.clear()
        return await all_of(*(waiting.infer(spied, request, LOGITS) for request in requests))

    rans = run(infer)
    assert spied.batches == [4]
    assert [bool(np.isfinite(ran.values["logits"]).all()) for ran in rans] == [True, False, True, True]


@pytest.mark.parametrize("room", [4, 3, 1, 0])
def test_a_batch_that_the_device_has_no_memory_for_is_halved(model: LoadedModel, room: int) -> None:
    def fail_beyond(tensor: NDArray) -> None:
        if len(tensor) > room:
            raise DeviceMemoryError("out of memory on purpose")

    spied, whole = Spied(model), images(8)

    async def infer() -> list[Any]:
        waiting = scheduler(short=0.02)
        waiting.prepare(spied)
        spied.before = fail_beyond
        spied.runs.clear()
        together = await all_of(*(waiting.infer(spied, whole[at : at + 1], LOGITS) for at in range(8)))
        return [*together, *await all_of(waiting.infer(spied, whole, LOGITS))]

    *each, eight = run(infer)
    assert spied.batches[0] == 8
    if room:
        expected = model.run(whole, LOGITS)["logits"]
        np.testing.assert_allclose(np.concatenate([ran.values["logits"] for ran in each]), expected, rtol=BOUND)
        np.testing.assert_allclose(eight.values["logits"], expected, rtol=BOUND)
        assert max(batch for batch in spied.batches if batch <= room) == max(b for b in (4, 2, 1) if b <= room)
    else:
        assert {type(ran) for ran in (*each, eight)} == {DeviceMemoryError}


@PLACES
def test_a_request_beyond_the_largest_run_is_split(model: LoadedModel, short: float) -> None:
    spied, whole = Spied(model), images(11)

    async def infer() -> Ran:
        waiting = scheduler(short, max_batch=4)
        waiting.prepare(spied)
        spied.runs.clear()
        ran = await waiting.infer(spied, whole, LOGITS)
        await waiting.close()
        return ran

    ran = run(infer)
    assert spied.batches == [4, 4, 3]
    assert (ran.runs, ran.batch) == (3, 4)
    np.testing.assert_allclose(ran.values["logits"], model.run(whole, LOGITS)["logits"], rtol=BOUND)


@pytest.mark.parametrize("batch", [2, 4, 8])
def test_batches_change_results_by_no_more_than_the_bound(model: LoadedModel, batch: int) -> None:
    whole = images(64, seed=5)
    one_by_one = np.concatenate([model.run(whole[at : at + 1], LOGITS)["logits"] for at in range(64)])
    batches = np.concatenate([model.run(whole[at : at + batch], LOGITS)["logits"] for at in range(0, 64, batch)])
    np.testing.assert_allclose(batches, one_by_one, rtol=BOUND, atol=BOUND)
