"""The queue, against a list that is searched from end to end."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.batching.entry import Entry
from service.batching.plan import Plan
from service.batching.queue import Queue
from service.batching.terms import DEFAULT_LEVEL, LEVEL_NS, LOWEST_LEVEL, Terms
from service.errors import ClientLeftError, QueueFullError

LIMIT = 20
# On the CPU runs have sizes that were warmed; on CUDA the model pads.
PLANS = {
    "alone": Plan(0.5, (1,), 32),
    "sizes": Plan(0.5, (1, 2, 4, 8), 32),
    "pads": Plan(0.5, (1, 4, 8), 8, pads=True),
}


def entry(number: int, key: str, images: int, terms: Terms, came_ns: int, future: asyncio.Future) -> Entry[int]:
    return Entry(number, key, images, PLANS[key], PLANS[key].seconds * images, terms, came_ns, future)


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.queue: Queue[int] = Queue(LIMIT)
        self.waiting: list[Entry[int]] = []
        self.taken: list[int] = []
        self.put_in: list[Entry[int]] = []
        self.left: set[int] = set()
        self.clock = 0

    def teardown(self) -> None:
        while self.queue.images:
            self.take()
        assert not self.wanted()
        # Nothing is lost and nothing is given out twice: what was put was taken once, or nobody wanted it any more.
        assert sorted(self.taken) == sorted(set(self.taken))
        for put in self.put_in:
            if put.payload not in self.taken:
                assert put.payload in self.left
                assert put.future.cancelled() or isinstance(put.future.exception(), ClientLeftError)
        self.loop.close()

    def order(self, waiting: Entry[int]) -> tuple[int, int]:
        level = min(waiting.terms.priority or DEFAULT_LEVEL, LOWEST_LEVEL)
        return waiting.came_ns + level * LEVEL_NS, waiting.payload

    def wanted(self) -> list[Entry[int]]:
        return sorted((entry for entry in self.waiting if entry.payload not in self.left), key=self.order)

    @rule(
        key=st.sampled_from(sorted(PLANS)),
        images=st.lists(st.integers(1, 6), min_size=1, max_size=3),
        priority=st.integers(0, 12),
        later=st.integers(0, 3 * LEVEL_NS),
    )
    def put(self, key: str, images: Sequence[int], priority: int, later: int) -> None:
        self.clock += later
        entries = []
        for count in images:
            number = len(self.put_in) + len(entries)
            terms = Terms(priority, gone=lambda number=number: number in self.left)
            entries.append(entry(number, key, count, terms, self.clock, self.loop.create_future()))
        waiting = self.wanted()
        if waiting and sum(images) + sum(entry.images for entry in waiting) > LIMIT:
            with pytest.raises(QueueFullError):
                self.queue.put(entries)
        else:
            self.queue.put(entries)
            self.waiting += entries
            self.put_in += entries

    @rule()
    def take(self) -> None:
        expected = self.wanted()
        run = self.queue.take()
        self.taken += [taken.payload for taken in run]
        if not expected:
            assert run == []
            return
        first = expected[0]
        assert run[0] is first
        # Of its own line, in order, none left out between, and none beyond the largest size.
        line = [waiting for waiting in expected if waiting.key == first.key]
        assert run == line[: len(run)]
        assert len(run) == 1 or sum(taken.images for taken in run) <= first.plan.sizes[-1]
        if first.plan.pads and len(run) < len(line):
            assert sum(taken.images for taken in run) + line[len(run)].images > first.plan.sizes[-1]
        self.waiting = [waiting for waiting in self.waiting if waiting not in run]

    @precondition(lambda self: self.wanted())
    @rule(data=st.data(), cancelled=st.booleans())
    def leave(self, data: st.DataObject, cancelled: bool) -> None:
        left = data.draw(st.sampled_from(self.wanted()))
        self.left.add(left.payload)
        if cancelled:
            left.future.cancel()

    @invariant()
    def bounded(self) -> None:
        assert sum(waiting.images for waiting in self.wanted()) <= self.queue.images
        assert self.queue.images <= LIMIT


QueueMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
test_queue = QueueMachine.TestCase


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 100 * LEVEL_NS))
def test_nothing_is_overtaken_by_what_comes_much_later(low: int, high: int, later: int) -> None:
    """Whatever its priority: of requests that come 8 s later, none goes first."""
    if later > (LOWEST_LEVEL - 1) * LEVEL_NS:
        assert Terms(low).due(0) < Terms(high).due(later)


@pytest.mark.parametrize(("more", "less"), [(1, 2), (1, 0), (4, 0), (0, 6), (0, 9), (8, 9)])
def test_the_more_urgent_goes_first_within_a_second(more: int, less: int) -> None:
    assert Terms(more).due(LEVEL_NS - 1) < Terms(less).due(0)
    assert Terms(0) == Terms(0)
    assert Terms(0).due(5) == Terms(DEFAULT_LEVEL).due(5)
    assert Terms(10**18).due(5) == Terms(LOWEST_LEVEL).due(5)


@pytest.mark.parametrize("places", [1, 2])
def test_a_full_queue_says_when_it_will_be_worked_off(places: int) -> None:
    loop = asyncio.new_event_loop()
    queue: Queue[int] = Queue(8, places)
    queue.put([entry(0, "alone", 8, Terms(), 0, loop.create_future())])
    refused = entry(1, "alone", 1, Terms(), 0, loop.create_future())
    with pytest.raises(QueueFullError, match="8 images wait already") as full:
        queue.put([refused])
    assert full.value.retry_after == 4 / places
    # Of late each took three times as long as was measured.
    for _ in range(200):
        queue.worked(0.5, 1.5)
    with pytest.raises(QueueFullError) as full:
        queue.put([refused])
    assert full.value.retry_after == 12 / places
    loop.close()


def test_an_empty_queue_takes_what_is_larger_than_it() -> None:
    loop = asyncio.new_event_loop()
    queue: Queue[int] = Queue(8)
    queue.put([entry(number, "alone", 1, Terms(), number, loop.create_future()) for number in range(30)])
    assert [queue.take()[0].payload for _ in range(30)] == list(range(30))
    assert queue.images == 0
    loop.close()
