"""A short soak: every kind of request while versions change, none lost; and a judge of memory that finds a leak."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak.asks import KINDS
from benchmarks.soak.changes import CHANGES
from benchmarks.soak.memory import MEGABYTE, Sample, growth
from benchmarks.soak.run import Outcome, Plan, service, soak
from tests import bundles

PLAN = Plan(requests=400, seconds=120, callers=6, rounds=10)
BOUND = 32 * MEGABYTE
# Four times the bound over all requests: between the thirds that are compared lie four tenths of them.
LEAK = 4 * BOUND // PLAN.requests


def soaked(folder: Path, module: str = "service", **settings: object) -> Outcome:
    root = folder / "models"
    bundles.publish(root, "tiny")
    bundles.publish(root, "tiny")
    settings |= {"RESLENS_PROVIDER": "cpu", "RESLENS_HISTORY_URL": f"sqlite:///{folder}/history.sqlite3"}
    with service(root, module, **settings) as (process, port):
        outcome = asyncio.run(soak(root, process.pid, port, PLAN, lambda _: None))
        assert process.poll() is None
    return outcome


def test_nothing_is_lost_and_memory_stays_within_its_bound(tmp_path: Path) -> None:
    outcome = soaked(tmp_path, RESLENS_WORKERS=2)
    assert outcome.tally.complaints == []
    assert outcome.tally.sent >= PLAN.requests
    assert set(KINDS) <= set(outcome.tally.right)
    assert outcome.tally.left.total() > 0
    assert set(outcome.changes) == set(CHANGES)
    assert set(outcome.changes.values()) == {PLAN.rounds}
    assert growth(outcome.samples, BOUND).within, outcome.samples


def test_a_leak_is_found(tmp_path: Path) -> None:
    outcome = soaked(tmp_path, "benchmarks.soak.leaking", SOAK_LEAK_BYTES=LEAK)
    assert outcome.tally.complaints == []
    assert not growth(outcome.samples, BOUND).within, outcome.samples


@pytest.mark.parametrize("seed", range(5))
def test_the_judge_looks_at_what_comes_after_warm_up(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.1 * BOUND, 41)
    heights = np.minimum(np.arange(41), 12) * BOUND  # rises steeply, and stays
    flat = [Sample(index * 1000, int(10 * BOUND + heights[index] + noise[index])) for index in range(41)]
    assert growth(flat, BOUND).within
    rising = [Sample(requests, used + requests * 4 * BOUND // 40_000) for requests, used in flat]
    assert not growth(rising, BOUND).within


def test_too_few_samples_are_no_judgement() -> None:
    with pytest.raises(ValueError, match="too few"):
        growth([Sample(0, 1), Sample(10, 1)], BOUND)
