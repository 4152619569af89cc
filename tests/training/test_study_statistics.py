"""Spreads, paired tests and corrections, against hand calculations and SciPy's own."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from training.studies.baseline import Baseline
from training.studies.case import Case
from training.studies.comparison import Comparison, compare, holm, smallest_exact, spread
from training.studies.figures import draw
from training.studies.results import Group, gather, gradient_ratio, summarise

CASE = Case("resnet8", "relu", "original", "he", "batch", 0.1, 1, 64, 0)


def test_a_spread_is_that_of_the_sample() -> None:
    found = spread([1.0, 2.0, None, 6.0])
    assert found is not None
    assert (found.mean, found.runs) == (3.0, 3)
    # ((1 − 3)² + (2 − 3)² + (6 − 3)²) / 2 = 7
    assert found.std == pytest.approx(math.sqrt(7))
    assert spread([None]) is None
    single = spread([4.0])
    assert single is not None
    assert single.std is None


def test_pairs_are_compared_by_their_seed() -> None:
    group, baseline = {0: 0.9, 1: 0.8, 2: 0.7, 7: 0.1}, {2: 0.5, 1: 0.7, 0: 0.85, 3: 0.0}
    found = compare(group, baseline)
    assert found is not None
    assert found.pairs == 3
    # Differences 0.05, 0.1, 0.2: mean 7/60, s² = (0.2/3)²·… by hand: s = 0.0763763, t = 2.6458, 2 degrees of freedom.
    assert found.difference == pytest.approx(7 / 60)
    t = (7 / 60) / (0.07637626158259734 / math.sqrt(3))
    assert found.p == pytest.approx(2 * stats.t.sf(t, 2))
    half = stats.t.ppf(0.975, 2) * 0.07637626158259734 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((7 / 60 - half, 7 / 60 + half))
    assert found.p == pytest.approx(stats.ttest_rel([0.9, 0.8, 0.7], [0.85, 0.7, 0.5]).pvalue)


@pytest.mark.parametrize("group", [{0: 0.5}, {0: 0.5, 1: 0.6, 2: 0.7}])
def test_of_one_pair_or_equal_differences_there_is_no_test(group: dict[int, float]) -> None:
    found = compare(group, {seed: value - 0.1 for seed, value in group.items()})
    assert found is not None
    assert found.difference == pytest.approx(0.1)
    assert (found.low, found.high, found.p) == (None, None, None)
    assert compare(group, {9: 0.5}) is None


def test_holm_multiplies_the_smallest_most_and_never_falls() -> None:
    given = [Comparison(0, 0, 0, p, 5) for p in (0.01, 0.04, 0.03, 0.5)] + [Comparison(0, None, None, None, 1)]
    # Sorted 0.01·4, 0.03·3, max(0.09, 0.04·2), 0.5·1.
    assert [each.p_holm for each in holm(given)] == [pytest.approx(p) for p in (0.04, 0.09, 0.09, 0.5)] + [None]
    assert [each.p_holm for each in holm([Comparison(0, 0, 0, 0.6, 5)] * 3)] == [1.0] * 3
    assert smallest_exact(5) == 0.0625


def test_the_gradient_ratio_leaves_the_head_out() -> None:
    reading = {"weights": ["conv1", "layer1.0.conv1", "layer1.0.downsample.0", "linear"], "gradient_rms": [2, 4, 5, 9]}
    assert gradient_ratio(reading) == 0.5
    assert gradient_ratio({"weights": ["conv1", "a.conv2"], "gradient_rms": [2.0, 0.0]}) is None


def test_a_baseline_is_a_value_of_an_axis() -> None:
    cases = [replace(CASE, activation=key, initialiser=other) for key in ("relu", "mish") for other in ("he", "lecun")]
    assert Baseline.parse("mish", cases) == Baseline("activation", "mish")
    assert Baseline.parse("initialiser=he", cases) == Baseline("initialiser", "he")
    # Every run has it, and yet it says which axis is meant.
    assert Baseline.parse("batch", cases) == Baseline("normaliser", "batch")
    assert Baseline("activation", "relu").of(cases[3]) == cases[1]
    assert Baseline("activation", "relu").of(cases[0]) is None
    rates = [replace(CASE, learning_rate=rate) for rate in (0.1, 0.05)]
    assert Baseline.parse("0.05", rates).of(rates[0]) == rates[1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gelu", "in no run of this study"),
        ("initialiser=mish", "in no run of this study"),
        ("colour=red", "unknown axis 'colour'"),
        ("fixup", "may be any of initialiser=fixup, normaliser=fixup"),
    ],
)
def test_a_baseline_that_is_not_there_or_not_clear_is_refused(text: str, reason: str) -> None:
    fixup = replace(CASE, initialiser="fixup", normaliser="fixup")
    with pytest.raises(ValueError, match=reason):
        Baseline.parse(text, [CASE, fixup])


def test_runs_that_diverged_are_counted_and_not_averaged() -> None:
    reading = {
        "weights": ["conv1", "a.conv1"],
        "gradient_rms": [1.0, 2.0],
        "std": [1.0, 3.0],
        "dead_units": [0.0, 0.5],
        "dead_channels": [None, None],
        "saturated": [0.2, 0.4],
        "mean_shift": [0.1, None],
    }
    ended = {"parameters": 5, "loss": 0.1, "training_error": 0.0, "training_loss": 0.2}
    probed = {"initial": reading, "final": reading}
    # What diverged ends with numbers of any size, which tell of nothing that was learned.
    burst = {"initial": reading, "final": {**reading, "dead_units": [1.0, 1.0], "std": [1e30, 1e38]}}
    mish = replace(CASE, activation="mish")
    runs: dict[Case, dict[str, Any]] = {
        CASE: {**ended, **probed, "accuracy": 0.9},
        replace(CASE, seed=1): {**ended, **probed, "accuracy": 0.8},
        mish: {**ended, **probed, "accuracy": 0.95},
        replace(mish, seed=1): {"parameters": 5, **burst, "diverged": "the loss is nan"},
        replace(mish, seed=2): {"failed": "out of memory"},
    }
    cases = [replace(case, seed=seed) for seed in range(3) for case in (CASE, mish)]
    groups = gather(cases, runs)
    assert groups == [
        Group(CASE, {seed: runs[replace(CASE, seed=seed)] for seed in range(2)}),
        Group(mish, {seed: runs[replace(mish, seed=seed)] for seed in range(3)}),
    ]
    relu, other = summarise(groups, Baseline("activation", "relu"))
    assert relu["accuracy"] == {"mean": pytest.approx(0.85), "std": pytest.approx(0.0707107), "runs": 2}
    assert (relu["comparison"], relu["diverged"], relu["failed"]) == (None, [], {})
    assert (relu["dead_units"]["mean"], relu["gradient_ratio"]["mean"], relu["std_ratio"]["mean"]) == (0.25, 0.5, 3.0)
    assert relu["mean_shift"] is relu["dead_channels"] is None
    assert (other["runs"], other["diverged"], other["failed"]) == (3, [1], {"2": "out of memory"})
    assert other["accuracy"] == {"mean": 0.95, "std": None, "runs": 1}
    assert other["dead_units"] == {"mean": 0.25, "std": None, "runs": 1}
    assert other["std_ratio"] == {"mean": 3.0, "std": 0.0, "runs": 2}
    assert other["comparison"]["difference"] == pytest.approx(0.05)
    assert other["comparison"]["p_holm"] is None


def test_one_run_that_diverged_takes_no_shades_from_the_others() -> None:
    def reading(std: float) -> dict[str, Any]:
        flat = dict.fromkeys(("dead_units", "mean_shift", "gradient_rms"), [0.5] * 60)
        return {**flat, "std": [std + layer / 60 for layer in range(60)], "learned": {}}

    good = {"initial": reading(1.0), "final": reading(2.0), "accuracy": 0.9}
    burst = {"initial": reading(1.0), "final": reading(1e30), "diverged": "the loss is nan"}
    # One layer of thousands is an outlier before the first step already.
    wild = {**good, "initial": {**reading(1.0), "std": [1e15, *reading(1.0)["std"][1:]]}}
    groups = [Group(CASE, {0: wild, 1: burst}), Group(replace(CASE, activation="mish"), {0: burst})]
    (spread,) = [picture for picture in draw(groups) if picture.key == "spread"]
    before, after = [image for axes in spread.figure.axes for image in axes.get_images()][:2]
    shown = np.ma.filled(np.ma.asarray(after.get_array()).astype(float), np.nan)
    assert shown[0].max() == pytest.approx(2.0 + 59 / 60)
    assert np.isnan(shown[1]).all()
    assert before.norm.vmax == after.norm.vmax < 10
