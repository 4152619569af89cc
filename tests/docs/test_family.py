"""docs/family.md: it has every row, and what is said of the failing ones is what was measured."""

import json
from typing import Any

import pytest

from benchmarks.family.cases import cases
from docs.generated import FAMILY

CHANCE = 0.9  # of ten classes, alike often


@pytest.fixture(scope="module")
def runs() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(FAMILY.read_text())["runs"]
    return found


def errors(runs: dict[str, dict[str, Any]], row: str) -> list[float]:
    """Of the training images, over seeds; 1 where the loss became no number."""
    found = [run.get("training_error", 1.0) for key, run in runs.items() if key.rpartition("/")[0] == row]
    assert found, row
    return found


def test_every_row_was_trained_with_each_of_its_seeds(runs: dict[str, dict[str, Any]]) -> None:
    wanted = {f"{case.kind}/{case.name}/{seed}" for case in cases() for seed in range(case.seeds)}
    assert runs.keys() == wanted, "run `python -m benchmarks.family` again"


def test_every_network_that_was_published_told_of_its_layers(runs: dict[str, dict[str, Any]]) -> None:
    served = json.loads(FAMILY.read_text())["served"]
    for run in runs.values():
        if "model" in run:
            assert served[run["model"]]["layers"] > 0
            assert served[run["model"]]["finite"]
            assert run["parity"] <= 1e-4


def test_zeros_learn_nothing(runs: dict[str, dict[str, Any]]) -> None:
    assert min(errors(runs, "initialiser/zeros")) > CHANCE - 0.05


def test_plain_networks_become_worse_with_depth_and_residual_ones_hardly(runs: dict[str, dict[str, Any]]) -> None:
    assert min(errors(runs, "depth/plain56")) > 10 * max(errors(runs, "depth/plain20"))
    assert max(errors(runs, "depth/resnet56")) < min(errors(runs, "depth/plain56")) / 10


@pytest.mark.parametrize("row", ["resnet56, dropout", "resnet56, scaled 0 and 1", "resnet56, scaled 0.5 and 1"])
def test_what_the_paper_says_fails_fails_in_depth(runs: dict[str, dict[str, Any]], row: str) -> None:
    assert min(errors(runs, f"depth/{row}")) > 2 * max(errors(runs, "depth/resnet56"))
