"""Each rule on a real network: it finds its fault, is silent without one, and says when it has too little data."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.diagnosis.diagnose import Diagnostician
from models.diagnosis.finding import Diagnosis, Finding
from models.diagnosis.rules import RULES
from models.diagnosis.thresholds import Thresholds
from models.instrument import instrument
from models.manifest import HalfPrecision, Metrics, ModelManifest
from models.statistics.baseline import Baseline
from models.statistics.window import Window, WindowReader
from tests.models import graphs
from tests.models.graphs import Outputs

Change = Callable[[dict[str, np.ndarray]], None]

HELD_OUT = 4000


@cache
def manifest() -> ModelManifest:
    return graphs.manifest("rectifier", zero_is_dead=True)


@cache
def model(change: Change | None = None) -> onnx.ModelProto:
    """The small network, with balanced classes, and its weights changed."""
    plain = graphs.graph("rectifier")
    weights = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in plain.graph.initializer}
    weights["b3"] -= 0.25 * np.array([1.0, -1.0, 0.5, -0.5, 0.0], np.float32)
    weights["w3"] -= weights["w3"].mean(1, keepdims=True)
    if change:
        change(weights)
    for tensor in plain.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return instrument(plain, manifest())


def images(count: int, seed: int) -> np.ndarray:
    """Of many brightnesses and colours, so that predictions differ."""
    generator = np.random.default_rng(seed)
    colour = generator.normal(0, 1, (count, 3, 1, 1)).astype(np.float32)
    return graphs.images(count, seed) + colour


@cache
def run(count: int, seed: int, change: Change | None = None) -> Outputs:
    return graphs.run(model(change), images(count, seed))


@cache
def baseline() -> Baseline:
    return Baseline.of([run(HELD_OUT, 1)], manifest())


@cache
def reader() -> WindowReader:
    return WindowReader(manifest(), baseline().outliers)


@cache
def watch() -> Diagnostician:
    return Diagnostician(manifest(), baseline())


def window(count: int = 3000, seed: int = 2, change: Change | None = None) -> Window:
    return reader().of(run(count, seed, change))


def of_rule(diagnosis: Diagnosis, rule: str) -> list[Finding]:
    assert all(missing.rule != rule for missing in diagnosis.unjudged), diagnosis.unjudged
    return [finding for finding in diagnosis.findings if finding.rule == rule]


def kill(weights: dict[str, np.ndarray]) -> None:
    for name in ("w1", "b1"):
        weights[name][:10] = 0


def whisper(weights: dict[str, np.ndarray]) -> None:
    for name in ("w1", "b1"):
        weights[name][:4] *= np.float32(1e-3)


def silence(weights: dict[str, np.ndarray]) -> None:
    weights["b1"][:10] -= 40


def amplify(weights: dict[str, np.ndarray]) -> None:
    weights["w1"] *= 6
    weights["b1"] *= 6


def weaken(weights: dict[str, np.ndarray]) -> None:
    weights["w1"] /= 6
    weights["b1"] /= 6


def off_centre(weights: dict[str, np.ndarray]) -> None:
    weights["b1"] += 30


def align(weights: dict[str, np.ndarray]) -> None:
    weights["w1"][:] = weights["w1"][:1] * np.linspace(0.5, 1.5, 16, dtype=np.float32)[:, None, None, None]
    weights["b1"][:] = 1


def cut(weights: dict[str, np.ndarray]) -> None:
    weights["w2"] *= 0
    weights["b2"] *= 0


def overflow(weights: dict[str, np.ndarray]) -> None:
    weights["w1"][3] = np.float32(np.inf)


FAULTS: dict[str, tuple[Change, str, str]] = {
    "dead_channels": (kill, "layer1.act2", "layer1.act2: 10 of 16 channels dead (baseline 0)"),
    "dormant_channels": (whisper, "layer1.act2", "of 16 channels dormant, at most 2.5 % of the layer's mean (baseline"),
    "dying_layer": (silence, "layer1.act2", "of the channels are active in less than 1 % of the images (baseline 0 %)"),
    "saturation": (silence, "layer1.act2", "of the values saturated (baseline"),
    "exploding": (amplify, "layer1.act2", "6.0 times the baseline's"),
    "vanishing": (weaken, "layer1.act2", "0.17 of the baseline's"),
    "mean_shift": (off_centre, "layer1.act2", "the channels' means hold"),
    "low_rank": (align, "layer1.act2", "the channels vary in 1."),
    "branch_ignored": (
        cut,
        "layer1.0",
        "block 1 (layer1.0) adds almost nothing: at most 0 % of the shortcut (baseline",
    ),
    "drift": (amplify, "layer1.act2", "layer1.act2: drifted, "),
    "out_of_distribution": (amplify, "model", "of the images are unlike those that the model knows (1 % is usual)"),
    "not_finite": (overflow, "layer1.act2", "activations are infinite or NaN in 3000 of 3000 images"),
}


@pytest.mark.parametrize("rule", FAULTS)
def test_a_rule_finds_its_fault_and_says_so(rule: str) -> None:
    change, part, sentence = FAULTS[rule]
    found = of_rule(watch().diagnose(window(change=change)), rule)
    (finding,) = [finding for finding in found if finding.part == part]
    assert sentence in finding.cause
    assert finding.images == 3000
    if finding.interval is not None and finding.value is not None:
        low, high = finding.interval
        assert low <= finding.value <= high


@pytest.mark.parametrize("seed", range(2, 8))
def test_nothing_is_found_where_nothing_is_wrong(seed: int) -> None:
    diagnosis = watch().diagnose(window(seed=seed))
    assert diagnosis.findings == []
    assert [missing.rule for missing in diagnosis.unjudged] == []


@pytest.mark.parametrize("rule", RULES)
def test_too_little_data_is_not_judged(rule: str) -> None:
    needed = RULES[rule].images
    # One short, of a fault that every rule would jump at.
    few = window(needed - 1, change=overflow) if needed > 1 else reader().empty()
    (missing,) = [missing for missing in watch().diagnose(few).unjudged if missing.rule == rule]
    assert missing.reason == f"not enough data: {needed - 1} of {needed} images"
    assert (missing.images, missing.needed) == (needed - 1, needed)


@pytest.mark.parametrize("rule", [rule for rule in RULES if RULES[rule].needs_baseline])
def test_a_rule_that_compares_is_not_judged_without_a_baseline(rule: str) -> None:
    blind = Diagnostician(manifest(), None)
    (missing,) = [missing for missing in blind.diagnose(window()).unjudged if missing.rule == rule]
    assert missing.reason.startswith("no baseline: ")


def test_a_poor_baseline_is_none() -> None:
    poor = Diagnostician(manifest(), Baseline.of([run(150, 1)], manifest()))
    reasons = {missing.rule: missing.reason for missing in poor.diagnose(window()).unjudged}
    assert reasons["drift"] == "no baseline: it has 150 images, 200 are needed"
    few = Diagnostician(manifest(), Baseline.of([run(600, 1)], manifest()))
    reasons = {missing.rule: missing.reason for missing in few.diagnose(window()).unjudged}
    assert reasons["out_of_distribution"] == "no baseline: p-values are calibrated with 300 images, 1000 are needed"


def test_dead_channels_are_found_without_a_baseline() -> None:
    blind = Diagnostician(manifest(), None)
    (finding,) = of_rule(blind.diagnose(window(change=kill)), "dead_channels")
    assert finding.cause == "layer1.act2: 10 of 16 channels dead"
    assert finding.baseline is None
    assert finding.evidence["channels"] == list(range(10))


def test_a_channel_that_hardly_ever_fired_may_be_silent_by_chance() -> None:
    rare = replace(baseline().window, fired=np.minimum(baseline().window.fired, 5))
    lucky = Diagnostician(manifest(), replace(baseline(), window=rare))
    assert of_rule(lucky.diagnose(window(change=kill)), "dead_channels") == []


def test_a_zero_that_has_a_gradient_is_not_dead() -> None:
    other = manifest().model_copy(
        update={"sites": tuple(site.model_copy(update={"zero_is_dead": False}) for site in manifest().sites)}
    )
    diagnosis = Diagnostician(other, baseline()).diagnose(window(change=kill))
    assert of_rule(diagnosis, "dead_channels") == of_rule(diagnosis, "dying_layer") == []


def test_some_images_with_nan_are_counted_and_spoil_nothing_else() -> None:
    pixels = images(3000, 9)
    pixels[::100, 0, 0, 0] = np.nan
    diagnosis = watch().diagnose(reader().of(graphs.run(model(), pixels)))
    assert {finding.rule for finding in diagnosis.findings} == {"not_finite"}
    found = {finding.part: finding for finding in diagnosis.findings}
    assert found["layer1.act1"].cause == "layer1.act1: activations are infinite or NaN in 30 of 3000 images"
    assert found["layer1.act3"].cause.endswith("are infinite or NaN in 30 of 3000 images, first in layer1.act1")
    assert found["layer1.act3"].value == pytest.approx(0.01)
    assert found["prediction"].cause.startswith(
        "prediction: the logits are infinite or NaN in 30 of 3000 images, first"
    )


def test_the_order_and_split_of_a_window_do_not_matter() -> None:
    outputs = run(3000, 2, amplify)
    parts = [{name: values[rows] for name, values in outputs.items()} for rows in np.split(np.arange(3000), 6)]
    merged = reader().merge([reader().of(part) for part in reversed(parts)])
    whole = watch().diagnose(window(change=amplify))
    split = watch().diagnose(merged)
    assert [(f.rule, f.part, f.cause) for f in split.findings] == [(f.rule, f.part, f.cause) for f in whole.findings]


def test_the_gravest_comes_first() -> None:
    order = ["critical", "warning", "info"]
    found = [order.index(f.severity) for f in watch().diagnose(window(change=silence)).findings]
    assert found == sorted(found)
    assert found[0] == 0


def test_unusual_images_are_counted_and_merge() -> None:
    first, second = window(400, 3), window(700, 4)
    merged = reader().merge([first, second])
    assert (merged.judged, merged.unusual) == (1100, first.unusual + second.unusual)
    assert 0 < merged.unusual < 40
    restored = reader().from_bytes(merged.to_bytes())
    assert (restored.judged, restored.unusual) == (merged.judged, merged.unusual)
    unjudged = WindowReader(manifest()).of(run(400, 3))
    assert (unjudged.judged, unjudged.unusual) == (0, 0)


def test_a_window_whose_images_were_not_judged_singly_says_so() -> None:
    plain = WindowReader(manifest()).of(run(3000, 2))
    (missing,) = watch().diagnose(plain).unjudged
    assert (missing.rule, missing.reason) == ("out_of_distribution", "not enough data: 0 of 200 images")


def test_half_precision_is_about_to_overflow() -> None:
    halves = tuple(site.model_copy(update={"datatype": "FP16"}) for site in manifest().sites)
    half = manifest().model_copy(update={"sites": halves})
    loud = replace(window(), maximum=window().maximum + 9000)
    found = of_rule(Diagnostician(half, baseline()).diagnose(loud), "half_precision")
    assert [finding.part for finding in found] == ["layer1.act1", "layer1.act2", "layer1.act3"]
    assert "fp16 ends at 65504" in found[0].cause
    assert of_rule(watch().diagnose(loud), "half_precision") == []


def test_a_model_with_a_graph_in_half_precision_must_have_room_there() -> None:
    metrics = Metrics(images=10, accuracy=0.9, loss=0.1, data="held out")
    both = manifest().model_copy(update={"half": HalfPrecision(tolerance=0.02, difference=0.0, metrics=metrics)})
    loud = replace(window(), maximum=window().maximum + 9000)
    assert len(of_rule(Diagnostician(both, baseline()).diagnose(loud), "half_precision")) == 3


def test_minimum_images_are_the_users_choice() -> None:
    eager = Diagnostician(manifest(), baseline(), Thresholds(minimum_images={"dead_channels": 500}))
    assert of_rule(eager.diagnose(window(500, change=kill)), "dead_channels")
    with pytest.raises(ValueError, match="minimum_images names ded_channels; the rules are not_finite, "):
        Diagnostician(manifest(), None, Thresholds(minimum_images={"ded_channels": 5}))


def test_confirmations_must_be_possible() -> None:
    with pytest.raises(ValueError, match="confirmations=6 of confirmation_windows=5 can never come together"):
        Thresholds(confirmations=6)
