"""Each gate against another way to compute it, and at its bound."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from models.diagnosis.finding import Diagnosis, Finding, Unjudged
from training.retraining.bounds import Bounds
from training.retraining.calibration import calibration_error
from training.retraining.gates import (
    ON_GRAPHS,
    ON_IMAGES,
    Answers,
    Graphs,
    accuracy,
    calibration,
    class_floor,
    judge,
    parity,
    speed,
    statistics,
)
from training.retraining.paired import Pairs, inferiority, mcnemar

BOUNDS = Bounds()
CLASSES = ("a", "b", "c")


def answers(right: list[tuple[bool, bool]], labels: list[int] | None = None, data: str = "new") -> Answers:
    """From whether champion and challenger are right, image by image; a wrong answer is the next class."""
    known = np.array(labels or [index % 3 for index in range(len(right))], np.int64)

    def logits(side: int) -> np.ndarray:
        wrong = np.array([not pair[side] for pair in right])
        return np.eye(3, dtype=np.float32)[(known + wrong) % 3] * 5

    return Answers(data, known, logits(0), logits(1), CLASSES)


def pairs(both: int, lost: int, won: int) -> list[tuple[bool, bool]]:
    return [(True, True)] * both + [(True, False)] * lost + [(False, True)] * won


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (0, 1), (3, 3), (10, 2), (2, 10), (40, 61), (700, 800)])
def test_mcnemar_is_the_mean_of_two_binomial_tests(lost: int, won: int) -> None:
    """mid-p: half of the p-value with, and half of that without, the number that was observed."""
    fewer, n = min(lost, won), lost + won
    tail = stats.binom(n, 0.5)
    expected = min(1.0, tail.cdf(fewer) + tail.cdf(fewer - 1)) if n else 1.0
    assert mcnemar(Pairs(2000, lost, won)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("images", "lost", "won"), [(360, 0, 0), (360, 4, 1), (100, 2, 30), (10_000, 300, 250)])
def test_the_interval_is_walds_of_adjusted_cells(images: int, lost: int, won: int) -> None:
    """As the mean of +1, 0 and −1 for each image, one more won and one more lost among them."""
    signs = np.repeat([1.0, -1.0, 0.0], [won + 1, lost + 1, images - won - lost])
    error = signs.std() / math.sqrt(len(signs))
    found = inferiority(Pairs(images, lost, won), 0.02, 0.95)
    assert found.lower == pytest.approx(signs.mean() - stats.norm.ppf(0.95) * error, rel=1e-9)
    assert found.p == pytest.approx(stats.norm.sf((signs.mean() + 0.02) / error), abs=1e-12)
    assert (found.p < 0.05) == (found.lower > -0.02)


@pytest.mark.parametrize(("images", "margin", "won"), [(200, 0.05, 0.02), (200, 0.05, 0.1), (400, 0.02, 0.03)])
def test_a_challenger_that_loses_the_margin_seldom_passes(images: int, margin: float, won: float) -> None:
    """Every outcome of the multinomial with its probability, at the very margin: the error is near its nominal 5 %."""
    lost = won + margin
    chance = 0.0
    most = range(int(images * lost + 8 * math.sqrt(images * lost)))
    for losses in most:
        of_losses = stats.binom(images, lost).pmf(losses)
        # Given the losses, the others are won with probability won / (1 − lost).
        wins = np.arange(images - losses + 1)
        of_wins = stats.binom(images - losses, won / (1 - lost)).pmf(wins)
        likely = wins[of_wins > 1e-9]
        passes = [inferiority(Pairs(images, losses, int(each)), margin, 0.95).p < 0.05 for each in likely]
        chance += of_losses * float(of_wins[of_wins > 1e-9][passes].sum())
    assert chance <= 0.06


def test_accuracy_passes_only_where_it_is_shown_that_little_is_lost() -> None:
    equal = accuracy(answers(pairs(360, 0, 0)), BOUNDS)
    assert (equal.name, equal.passed, equal.bound) == ("accuracy_new", True, -0.02)
    assert equal.evidence["p_equal"] == 1
    # As accurate, but on so few images nothing is shown.
    few = accuracy(answers(pairs(30, 0, 0)), BOUNDS)
    assert not few.passed
    assert few.sentence.endswith("; of equal answers 115 images would be needed")
    assert accuracy(answers(pairs(115, 0, 0)), BOUNDS).passed
    assert not accuracy(answers(pairs(114, 0, 0)), BOUNDS).passed
    worse = accuracy(answers(pairs(340, 20, 0)), BOUNDS)
    assert not worse.passed
    assert worse.value is not None
    assert worse.value < -0.02
    assert worse.evidence["p_equal"] < 1e-4
    better = accuracy(answers(pairs(200, 20, 140)), BOUNDS)
    assert better.passed
    assert "(champion 61.11%)" in better.sentence
    assert accuracy(answers(pairs(340, 20, 0)), Bounds(margin=0.1)).passed


def test_a_class_may_not_fall_below_its_floor() -> None:
    labels = [0] * 10 + [1] * 10 + [2] * 10
    good, bad = (True, True), (True, False)
    collapsed = [good] * 20 + [good] * 4 + [bad] * 6
    found = class_floor(answers(collapsed, labels), BOUNDS)
    assert (found.passed, found.value, found.bound) == (False, 0.4, 0.5)
    assert "'c'" in found.sentence
    # Of a class in which the champion is no better, no more is asked for.
    hard = [good] * 20 + [good] * 4 + [(False, False)] * 6
    assert class_floor(answers(hard, labels), BOUNDS).passed
    assert not class_floor(
        answers([good] * 20 + [good] * 3 + [(True, False)] + [(False, False)] * 6, labels), BOUNDS
    ).passed
    # A class without images is not judged.
    assert class_floor(answers([good] * 20, [0] * 10 + [1] * 10), BOUNDS).passed


def test_calibration_error_is_the_sum_over_bins() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (500, 4)).astype(np.float32)
    labels = random.integers(0, 4, 500)
    exact = np.exp(logits.astype(np.float64))
    exact /= exact.sum(1, keepdims=True)
    expected = 0.0
    for low, high in itertools.pairwise(np.linspace(0, 1, 16)):
        members = (exact.max(1) > low) & (exact.max(1) <= high)
        if members.any():
            gap = (exact.argmax(1) == labels)[members].mean() - exact.max(1)[members].mean()
            expected += members.mean() * abs(gap)
    assert calibration_error(logits, labels) == pytest.approx(expected, rel=1e-9)


def test_a_challenger_that_is_surer_than_right_is_refused() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 600)
    right = random.random(600) < 0.7
    chosen = np.where(right, labels, (labels + 1) % 3)
    # Right with 70 %, and says so, or says 99.9 %.
    honest, boasting = (
        (np.eye(3)[chosen] * math.log(2 * share / (1 - share))).astype(np.float32) for share in (0.7, 0.999)
    )
    found = calibration(Answers("new", labels, honest, boasting, CLASSES), BOUNDS)
    assert not found.passed
    assert found.value == pytest.approx(0.999 - right.mean(), abs=1e-6)
    assert calibration(Answers("new", labels, boasting, honest, CLASSES), BOUNDS).passed


def test_logits_that_are_no_numbers_pass_no_gate_that_reads_them() -> None:
    broken = answers(pairs(90, 0, 0))
    broken.challenger[:] = np.nan
    assert not calibration(broken, BOUNDS).passed
    assert not accuracy(broken, BOUNDS).passed


GOOD = Diagnosis(images=360, findings=[], unjudged=[])


def finding(severity: str) -> Finding:
    return Finding(
        rule="dying_layer", part="act1", severity=severity, cause=f"act1: {severity}", value=1.0, baseline=0.0,
        interval=None, images=360, evidence={},
    )  # fmt: skip


def test_parity_speed_and_statistics_at_their_bounds() -> None:
    assert parity(Graphs(1e-4, [1.0], GOOD), BOUNDS).passed
    assert not parity(Graphs(1.1e-4, [1.0], GOOD), BOUNDS).passed
    failed = parity(Graphs(None, [], None, "logits differ by 3"), BOUNDS)
    assert (failed.passed, failed.value, failed.sentence) == (False, None, "logits differ by 3")
    # The median: one slow pair is no slow graph.
    assert speed(Graphs(0.0, [1.0, 1.25, 9.0], GOOD), BOUNDS).passed
    assert not speed(Graphs(0.0, [1.3, 1.26, 0.1], GOOD), BOUNDS).passed
    assert not speed(Graphs(0.0, [], GOOD), BOUNDS).passed
    warned = Diagnosis(images=360, findings=[finding("warning")], unjudged=[])
    assert statistics(Graphs(0.0, [1.0], warned), BOUNDS).passed
    dead = statistics(Graphs(0.0, [1.0], Diagnosis(images=9, findings=[finding("critical")], unjudged=[])), BOUNDS)
    assert (dead.passed, dead.value, dead.sentence) == (False, 1, "act1: critical")
    assert not statistics(Graphs(0.0, [1.0], None, "not finite"), BOUNDS).passed
    # What could not be judged is not good.
    missing = Unjudged(rule="dying_layer", images=99, needed=100, reason="not enough data: 99 of 100 images")
    unknown = statistics(Graphs(0.0, [1.0], Diagnosis(images=99, findings=[], unjudged=[missing])), BOUNDS)
    assert (unknown.passed, unknown.sentence) == (
        False,
        "dying_layer could not be judged: not enough data: 99 of 100 images",
    )


def test_all_gates_are_asked_on_each_set() -> None:
    sets = [answers(pairs(360, 0, 0), data=data) for data in ("new", "old")]
    found = judge(sets, Graphs(1e-6, [1.0], GOOD), BOUNDS)
    names = [f"{gate}_{data}" for data in ("new", "old") for gate in ON_IMAGES]
    assert [each.name for each in found] == [*names, *ON_GRAPHS]
    assert all(each.passed for each in found)


@pytest.mark.parametrize("wrong", [{"margin": 0}, {"confidence": 1}, {"class_floor": -1}, {"slowdown": math.nan}])
def test_impossible_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.* is not allowed"):
        Bounds(**wrong)
