"""The catalogue of gates: pure functions of what was measured, that say whether the challenger may pass."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.diagnosis.finding import Diagnosis
from training.export.graph import PARITY_TOLERANCE
from training.retraining.bounds import Bounds
from training.retraining.calibration import calibration_error
from training.retraining.paired import Pairs, inferiority, mcnemar


@dataclass(frozen=True)
class GateResult:
    """What one gate found."""

    name: str
    passed: bool
    value: float | None
    """What was measured; None where it could not be."""
    bound: float
    """What it is compared with."""
    sentence: str
    """The same for people."""
    evidence: Mapping[str, float] = field(default_factory=dict)
    """Further numbers."""


@dataclass(frozen=True)
class Answers:
    """What both classifiers said of the same held-out images."""

    data: str
    """`new` or `old`."""
    labels: NDArray[np.int64]
    champion: NDArray[np.float32]
    """Logits N×K."""
    challenger: NDArray[np.float32]
    class_names: tuple[str, ...]

    @property
    def right(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which images champion and challenger classify correctly."""
        return self.champion.argmax(1) == self.labels, self.challenger.argmax(1) == self.labels


@dataclass(frozen=True)
class Graphs:
    """What was found of the graphs themselves."""

    parity: float | None
    """Largest difference of the challenger's graph from PyTorch; None where it could not be exported, `problem` why."""
    ratios: Sequence[float]
    """Run time of the challenger over that of the champion, of pairs that were run one after the other."""
    diagnosis: Diagnosis | None
    """Of the challenger's layers on the held-out images; None where they are not finite, `problem` says where."""
    problem: str = ""


def accuracy(answers: Answers, bounds: Bounds) -> GateResult:
    """The lower end of the paired interval of the difference in accuracy is above −margin."""
    pairs = Pairs.of(*answers.right)
    found = inferiority(pairs, bounds.margin, bounds.confidence)
    before, after = (float(right.mean()) for right in answers.right)
    equal = mcnemar(pairs)
    return GateResult(
        name=f"accuracy_{answers.data}",
        passed=found.lower > -bounds.margin,
        value=found.lower,
        bound=-bounds.margin,
        sentence=f"accuracy {after:.2%} (champion {before:.2%}) on {pairs.images} images: the difference is at least "
        f"{found.lower:+.2%} with {bounds.confidence:.0%} confidence, p = {max(found.p, 1e-15):.2g} that "
        f"{bounds.margin:.1%} or more are lost{_too_few(pairs, bounds)}",
        evidence={
            "champion": before,
            "challenger": after,
            "images": pairs.images,
            "lost": pairs.lost,
            "won": pairs.won,
            "p": found.p,
            "p_equal": equal,
        },
    )


def _too_few(pairs: Pairs, bounds: Bounds) -> str:
    """Where not even equal answers would pass, for how many images they would."""
    needed = pairs.images
    while inferiority(Pairs(needed, 0, 0), bounds.margin, bounds.confidence).lower <= -bounds.margin:
        needed += 1
    return f"; of equal answers {needed} images would be needed" if needed > pairs.images else ""


def class_floor(answers: Answers, bounds: Bounds) -> GateResult:
    """In every class that has images, the accuracy is at least the floor, or the champion's where that is less."""
    before, after = answers.right
    rooms = []
    for index, name in enumerate(answers.class_names):
        members = answers.labels == index
        if members.any():
            floor = min(bounds.class_floor, float(before[members].mean()))
            mine = float(after[members].mean())
            rooms.append((mine - floor, mine, floor, name, float(before[members].mean())))
    room, worst, floor, name, champion = min(rooms)
    return GateResult(
        name=f"class_floor_{answers.data}",
        passed=room >= 0,
        value=worst,
        bound=floor,
        sentence=f"class {name!r} is nearest to its floor: accuracy {worst:.1%} (champion {champion:.1%}), at least "
        f"{floor:.1%} is asked for",
    )


def calibration(answers: Answers, bounds: Bounds) -> GateResult:
    """The expected calibration error is at most the margin above the champion's."""
    before, after = (calibration_error(logits, answers.labels) for logits in (answers.champion, answers.challenger))
    return GateResult(
        name=f"calibration_{answers.data}",
        passed=after <= before + bounds.calibration_margin,
        value=after,
        bound=before + bounds.calibration_margin,
        sentence=f"expected calibration error {after:.3f} (champion {before:.3f}), 15 bins",
        evidence={"champion": before},
    )


def parity(graphs: Graphs, _: Bounds) -> GateResult:
    """The graph's logits are within 1e-4 of PyTorch's."""
    found = graphs.parity
    good = found is not None and found <= PARITY_TOLERANCE
    text = graphs.problem if found is None else f"logits differ from PyTorch's by at most {found:.1e}"
    return GateResult("parity", good, found, PARITY_TOLERANCE, text)


def speed(graphs: Graphs, bounds: Bounds) -> GateResult:
    """The median of the paired ratios of run times is at most `slowdown`."""
    ratio = float(np.median(graphs.ratios)) if graphs.ratios else math.nan
    return GateResult(
        name="speed",
        passed=ratio <= bounds.slowdown,
        value=None if math.isnan(ratio) else ratio,
        bound=bounds.slowdown,
        sentence=f"a run takes {ratio:.2f} times the champion's (median of {len(graphs.ratios)} pairs)"
        if graphs.ratios
        else f"run times were not measured: {graphs.problem}",
    )


def statistics(graphs: Graphs, _: Bounds) -> GateResult:
    """All rules about the layers could be judged, and none found anything critical."""
    if graphs.diagnosis is None:
        return GateResult("statistics", False, None, 0, graphs.problem)
    critical = [finding.cause for finding in graphs.diagnosis.findings if finding.severity == "critical"]
    unjudged = graphs.diagnosis.unjudged
    rules = ", ".join(missing.rule for missing in unjudged)
    unknown = [f"{rules} could not be judged: {unjudged[0].reason}"] if unjudged else []
    warnings = len(graphs.diagnosis.findings) - len(critical)
    return GateResult(
        name="statistics",
        passed=not critical and not unknown,
        value=len(critical),
        bound=0,
        sentence="; ".join(critical + unknown) or f"all layers are alive and finite, {warnings} warnings",
        evidence={"warnings": warnings, "images": graphs.diagnosis.images},
    )


ON_IMAGES: dict[str, Callable[[Answers, Bounds], GateResult]] = {
    "accuracy": accuracy,
    "class_floor": class_floor,
    "calibration": calibration,
}
ON_GRAPHS: dict[str, Callable[[Graphs, Bounds], GateResult]] = {
    "parity": parity,
    "speed": speed,
    "statistics": statistics,
}


def judge(answers: Sequence[Answers], graphs: Graphs, bounds: Bounds) -> list[GateResult]:
    """What all gates say, those on each set of held-out images first; of a graph that is none, only why."""
    by_images = [gate(each, bounds) for each in answers for gate in ON_IMAGES.values()]
    return by_images + [gate(graphs, bounds) for gate in ON_GRAPHS.values()]
