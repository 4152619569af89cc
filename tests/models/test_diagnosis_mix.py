"""Class mix and drift are told apart, and findings are confirmed by several windows."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from models.diagnosis.diagnose import Diagnostician
from models.diagnosis.family import Family, class_groups
from models.diagnosis.finding import Diagnosis, Finding, Unjudged
from models.diagnosis.hysteresis import confirmed
from models.diagnosis.thresholds import Thresholds
from models.instrument import instrument
from models.manifest import BlockEnd
from models.statistics.baseline import Baseline
from models.statistics.window import Window, WindowReader
from tests.models import graphs
from tests.models.test_diagnosis import align, amplify, baseline, of_rule, reader, run, watch, window


def drawn(shares: Sequence[float], size: int = 2000, seed: int = 0, changed: bool = False) -> Window:
    """A window with these shares of predicted classes; the network is as it was, or `amplify` changed it."""
    generator = np.random.default_rng(seed)
    outputs = run(8000, 21, amplify if changed else None)
    predicted = run(8000, 21)["logits"].argmax(1)
    present = np.bincount(predicted, minlength=5)
    weights = (np.array(shares) / np.maximum(present, 1))[predicted]
    rows = generator.choice(8000, size, p=weights / weights.sum())
    return reader().of({name: values[rows] for name, values in outputs.items()})


@cache
def usual() -> tuple[float, ...]:
    counts = np.bincount(run(8000, 21)["logits"].argmax(1), minlength=5)
    return tuple((counts / counts.sum()).tolist())


def tilted() -> tuple[float, ...]:
    """The second most frequent class three times as frequent."""
    shares = np.array(usual())
    shares[np.argsort(shares)[-2]] *= 3
    return tuple((shares / shares.sum()).tolist())


@pytest.mark.parametrize("seed", range(3))
def test_another_class_mix_is_not_drift(seed: int) -> None:
    window = drawn(tilted(), seed=seed)
    tests = Family(baseline(), Thresholds())
    z = np.abs(tests.shift(window).z[~tests.is_class])
    assert (z > tests.threshold(window.images)).any(), "the mix alone moves the layers: else this tests nothing"
    diagnosis = watch().diagnose(window)
    assert of_rule(diagnosis, "drift") == []
    (finding,) = of_rule(diagnosis, "class_mix")
    assert finding.cause.startswith("class mix changed, layers did not drift: ")
    assert finding.severity == "info"
    assert finding.interval is not None
    assert finding.value is not None
    assert finding.interval[0] < finding.value < finding.interval[1]


def test_drift_beyond_the_class_mix_is_found_and_called_that() -> None:
    diagnosis = watch().diagnose(drawn(tilted(), changed=True))
    drifted = of_rule(diagnosis, "drift")
    assert "layer1.act2" in {finding.part for finding in drifted}
    (mix,) = of_rule(diagnosis, "class_mix") or [None]
    if mix is not None:
        assert "it does not explain the drift of" in mix.cause or "too few images" in mix.cause


@pytest.mark.parametrize(("shares", "severity"), [(usual, "warning"), (tilted, "info")])
def test_a_rank_that_the_class_mix_may_have_cost_is_no_alarm(
    shares: Callable[[], tuple[float, ...]], severity: str
) -> None:
    narrow = replace(drawn(shares()), spreads=window(2000, change=align).spreads)
    diagnosis = watch().diagnose(narrow)
    (finding,) = [found for found in of_rule(diagnosis, "low_rank") if found.part == "layer1.act2"]
    assert finding.severity == severity
    assert ("class mix changed" in finding.cause) == bool(of_rule(diagnosis, "class_mix"))


def test_the_usual_mix_is_no_finding() -> None:
    assert watch().diagnose(drawn(usual(), seed=5)).findings == []


def test_rare_classes_are_tested_together() -> None:
    assert class_groups(np.full(10, 100)).tolist() == list(range(10))
    thousand = class_groups(np.full(1000, 10))
    assert thousand.max() == 49
    assert (np.bincount(thousand) == 20).all()
    assert class_groups(np.array([0, 50, 50, 0])).tolist() == [0, 0, 1, 1]


def _finding(rule: str, part: str, value: float) -> Finding:
    return Finding(
        rule=rule,
        part=part,
        severity="warning",
        cause="",
        value=value,
        baseline=None,
        interval=None,
        images=1,
        evidence={},
    )


def _diagnosis(*findings: Finding, unjudged: Sequence[str] = ()) -> Diagnosis:
    missing = [Unjudged(rule=rule, images=1, needed=2, reason="not enough data: 1 of 2 images") for rule in unjudged]
    return Diagnosis(images=1, findings=list(findings), unjudged=missing)


def test_three_of_five_confirm_and_the_newest_speaks() -> None:
    found = [_diagnosis(_finding("drift", "a", value)) for value in range(4)]
    nothing = _diagnosis()
    assert confirmed([found[0], nothing, found[1], nothing]) == []
    (finding,) = confirmed([found[0], nothing, found[1], nothing, found[2]])
    assert finding.value == 2
    assert confirmed([found[0], nothing, found[1], nothing, found[2], nothing]) == []
    assert confirmed([found[0], nothing, found[1]], needed=2, of=3) == [found[1].findings[0]]


def test_parts_are_confirmed_apart() -> None:
    windows = [_diagnosis(_finding("drift", part, 0)) for part in ("a", "b", "a", "b", "a")]
    assert [finding.part for finding in confirmed(windows)] == ["a"]


def test_windows_that_could_not_judge_do_not_count() -> None:
    found, silent = _diagnosis(_finding("drift", "a", 1)), _diagnosis(unjudged=["drift"])
    assert confirmed([found, silent, found, silent, silent, silent, found])
    assert not confirmed([found, _diagnosis(), found, silent, silent, _diagnosis(), _diagnosis(), found])


def test_neighbouring_blocks_are_one_sentence() -> None:
    names = [f"layer1.{k}" for k in range(8)]
    blocks = tuple(BlockEnd(name=name, output="act3", shortcut="act1") for name in names)
    manifest = graphs.manifest("rectifier", blocks=blocks)
    outputs = graphs.run(instrument(graphs.graph("rectifier"), manifest), graphs.images(400))
    known = Baseline.of([outputs], manifest)
    window = WindowReader(manifest).of(outputs)
    shares = window.scalars.mean.copy()
    for name in (names[3], names[4], names[7]):
        shares[[scalar.part for scalar in known.names].index(name)] = 0.003
    ignored = replace(window, scalars=replace(window.scalars, mean=shares))
    first, second = of_rule(Diagnostician(manifest, known).diagnose(ignored), "branch_ignored")
    assert first.part == "layer1.3"
    assert first.cause.startswith(
        "blocks 4–5 (layer1.3 and layer1.4) add almost nothing: at most 0.3 % of the shortcut (baseline "
    )
    assert first.evidence["blocks"] == [4, 5]
    assert second.cause.startswith("block 8 (layer1.7) adds almost nothing: ")
