import logging
import threading
import time

import numpy as np
import pytest

from service.errors import ModelFaultError
from service.monitor.sampling import Sample, Sampling
from service.runtime.model import LoadedModel
from service.runtime.observation import run
from tests.service import watched


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return watched.load()


@pytest.fixture
def sample(model: LoadedModel) -> Sample:
    return Sample(model, watched.outputs(model, watched.images(2)), 0.0)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_takes_this_share(share: float) -> None:
    sampling = Sampling(share, lambda _: None)
    count = 20_000
    taken = sum(sampling.takes() for _ in range(count))
    assert abs(taken - share * count) <= 6 * np.sqrt(share * (1 - share) * count)


def test_costs_next_to_nothing_when_it_does_not_take() -> None:
    sampling = Sampling(0.0, lambda _: None)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(1000):
            sampling.takes()
        seconds.append((time.perf_counter() - started) / 1000)
    assert min(seconds) < 2e-6


def test_a_full_queue_refuses_and_nobody_waits(sample: Sample) -> None:
    release, reduced = threading.Event(), []

    def reduce(sample: Sample) -> None:
        release.wait(20)
        reduced.append(sample)

    sampling = Sampling(1.0, reduce, max_pending_bytes=3 * sample.bytes)
    sampling.start()
    assert sampling.offer(sample)
    while sampling._pending:
        time.sleep(0.001)  # it is being reduced, and waits no longer
    started = time.perf_counter()
    assert [sampling.offer(sample) for _ in range(5)] == [True, True, True, False, False]
    assert time.perf_counter() - started < 0.1
    assert not sampling.drain(0.05)
    release.set()
    assert sampling.drain(20)
    sampling.close(5)
    assert len(reduced) == 4


def test_a_sample_that_cannot_be_reduced_does_not_end_the_rest(
    sample: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    reduced: list[Sample] = []

    def reduce(sample: Sample) -> None:
        if not reduced and not caplog.records:
            raise ZeroDivisionError("on purpose")
        reduced.append(sample)

    sampling = Sampling(1.0, reduce)
    sampling.start()
    sampling.offer(sample)
    sampling.offer(sample)
    sampling.close(5)
    assert reduced == [sample]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_the_observer_sees_everything_and_the_caller_what_was_asked_for(model: LoadedModel) -> None:
    tensor = watched.images(3).astype(np.float32)
    seen = []
    values = run(model, tensor, ("logits",), lambda of, outputs: seen.append((of, outputs)))
    ((of, outputs),) = seen
    assert of is model
    assert set(outputs) == {*model.output_names, *model.statistics_names}
    np.testing.assert_allclose(values["logits"], model.run(tensor, ("logits",))["logits"], rtol=1e-5)


def test_a_request_that_is_watched_does_not_fail_because_of_it(model: LoadedModel) -> None:
    class Broken(LoadedModel):
        def __init__(self) -> None:
            self.__dict__ |= model.__dict__

        def run(self, tensor, outputs):  # type: ignore[no-untyped-def]
            if set(outputs) > set(self.output_names):
                raise ModelFaultError("no memory for statistics")
            return super().run(tensor, outputs)

    tensor = watched.images(1).astype(np.float32)
    seen: list[object] = []
    values = run(Broken(), tensor, ("logits",), lambda *arguments: seen.append(arguments))
    assert (set(values), seen) == ({"logits"}, [])
    for observer in (None, lambda *_: None):
        with pytest.raises(ModelFaultError):
            run(Broken(), tensor, ("logits", "statistics.mean"), observer)
