"""Traffic to which the layers respond differently from the baseline, and traffic of other classes: told apart."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from models.diagnosis.case import Case, listed, plural, share
from models.diagnosis.finding import PREDICTION, Evidence, Finding
from models.diagnosis.intervals import of_mean, wilson


def drift(case: Case) -> Iterator[Finding]:
    """Parts of the network with a family-wise significant deviation that is also large, the largest effect first.

    Large is a Wasserstein distance of `drift_effect` σ, or a shift of `channel_effect` σ in `channel_share` of the
    layer's channels. Where the class mix has changed, the reference is the baseline weighted to that mix, and the
    channels (whose means by class are not known) do not count.
    """
    seen = case.comparison
    significant = seen.significant
    names = case.tests.names[: len(significant)]
    found: list[tuple[float, Finding]] = []
    for part in dict.fromkeys(name.part for name in names):
        of_part = np.array([name.part == part for name in names])
        moved = _moved_channels(case, part)
        wide = moved is not None and moved.mean() >= case.thresholds.channel_share
        large = seen.distances >= case.thresholds.drift_effect
        drifted = np.flatnonzero(of_part & significant & (large | wide))
        if len(drifted):
            most = int(drifted[seen.distances[drifted].argmax()])
            found.append((float(seen.distances[most]), _drifted(case, most, len(drifted), moved)))
    for _, finding in sorted(found, key=lambda pair: -pair[0]):
        yield finding


def class_mix(case: Case) -> Iterator[Finding]:
    """The share of some predicted class beyond chance, and the mixes apart by `mix_effect`: ½ Σ |Δ share|."""
    seen = case.comparison
    if not seen.mix_changed:
        return
    now, before = (w.predicted / max(1, w.predicted.sum()) for w in (case.window, case.baseline.window))
    grown = now > before
    most = int((now - before).argmax())
    low, high = wilson(int(case.window.predicted[grown].sum()), int(case.window.predicted.sum()))
    parts = sum(1 for _ in drift(case))
    if not seen.separated:
        layers = "and the baseline has too few images of these classes to tell whether layers drifted"
    elif parts:
        layers = f"and it does not explain the drift of {plural(parts, 'part')}"
    else:
        layers = "layers did not drift"
    yield Finding(
        rule="class_mix",
        part=PREDICTION,
        severity="warning" if parts else "info",
        cause=f"class mix changed, {layers}: {case.manifest.class_names[most]!r} is {share(float(now[most]))} of the "
        f"predictions (baseline {share(float(before[most]))})",
        value=seen.mix_effect,
        baseline=0.0,
        interval=(max(0.0, low - float(before[grown].sum())), high - float(before[grown].sum())),
        images=case.images,
        evidence={"classes_grown": listed(grown), "parts_drifted": parts, "threshold": seen.threshold},
    )


def _drifted(case: Case, member: int, members: int, moved: NDArray[np.bool_] | None) -> Finding:
    seen, family = case.comparison, case.tests
    part, statistic = family.names[member]
    now, reference = float(seen.judged.now[member]), float(seen.judged.reference[member])
    effect, z = float(seen.distances[member]), float(seen.judged.z[member])
    evidence: Evidence = {
        "statistic": statistic,
        "effect": effect,
        "z": z,
        "threshold": seen.threshold,
        "p": family.p_value(z, case.images),
        "statistics_drifted": members,
        "effect_before_reweighting": float(seen.plain.effect[member]),
    }
    if moved is not None:
        evidence |= {"channels_moved": int(moved.sum()), "channels": listed(moved)}
    if seen.reweighted:
        mix = "beyond what the changed class mix explains"
    else:
        mix = "class mix changed too, and cannot be told apart" if seen.mix_changed else "class mix unchanged"
    weighted = "reweighted baseline" if seen.reweighted else "baseline"
    return Finding(
        rule="drift",
        part=part,
        severity="warning",
        cause=f"{part}: drifted, {statistic.replace('_', ' ')} {now:.3g} ({weighted} {reference:.3g}, {effect:.2g} σ "
        f"{'higher' if now > reference else 'lower'}), {mix}",
        value=now,
        baseline=reference,
        interval=of_mean(case.scalar(part, statistic)[0]),
        images=case.images,
        evidence=evidence,
    )


def _moved_channels(case: Case, part: str) -> NDArray[np.bool_] | None:
    """Channels of a layer whose mean has moved by `channel_effect` σ; None where that is not known."""
    if part not in case.before or case.comparison.mix_changed:
        return None
    now, before = case.now[part].mean, case.before[part].mean
    sigma = np.sqrt(before.variance)
    moved = np.abs(now.mean - before.mean) >= case.thresholds.channel_effect * sigma
    return np.asarray(moved & (sigma > 0) & (now.count > 0))
