"""The counts of several processes, added up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.repository import ModelRepository
from service.monitor.tally import Answered, Tally
from service.protocol.sums import added
from service.runtime.model import LoadedModel
from service.runtime.provider import CPU
from tests import bundles

NS = st.integers(0, 10**12)
REQUESTS = st.builds(
    Answered,
    images=st.integers(1, 4),
    batches=st.lists(st.integers(1, 8), max_size=2).map(tuple),
    total=NS,
    input=NS,
    queue=NS,
    infer=NS,
    output=NS,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[LoadedModel]:
    root = tmp_path_factory.mktemp("shelf")
    for _ in range(2):
        bundles.publish(root, "tiny")
    repository = ModelRepository(root)
    return [LoadedModel(repository.open("tiny", version), CPU, 1) for version in (1, 2)]


@given(st.lists(st.tuples(st.integers(0, 2), REQUESTS | NS), max_size=30))
def test_however_requests_are_shared_the_sum_is_that_of_one_process(
    models: list[LoadedModel], requests: list[tuple[int, Answered | int]]
) -> None:
    model = models[0]
    alone, workers = Tally(), [Tally() for _ in range(3)]
    for worker, request in requests:
        for tally in (alone, workers[worker]):
            if isinstance(request, Answered):
                tally.succeeded(model, request)
            else:
                tally.failed(model, request)
    merged = added(tally.of(model) for tally in workers)
    whole = alone.of(model)
    # The moment of the last is that of a clock.
    assert abs(merged.last_inference - whole.last_inference) < 1000
    assert merged.model_copy(update={"last_inference": 0}) == whole.model_copy(update={"last_inference": 0})


def test_counts_of_different_versions_are_not_added_up(models: list[LoadedModel]) -> None:
    tally = Tally()
    with pytest.raises(ValueError, match=r"\('tiny', '1'\), \('tiny', '2'\)"):
        added(tally.of(model) for model in models)
    with pytest.raises(ValueError, match="one version"):
        added([])
