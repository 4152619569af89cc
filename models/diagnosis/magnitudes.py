"""Layers whose numbers leave the range in which a network works: not finite, too large, too small, off centre."""

from collections.abc import Iterator

import numpy as np

from models.diagnosis.case import Case, Layer, listed, plural, share
from models.diagnosis.finding import PREDICTION, Finding
from models.diagnosis.intervals import Z, standard_errors, wilson


def not_finite(case: Case) -> Iterator[Finding]:
    """Images in which a channel put out an infinity or a NaN. What comes after one has them too: the first is named."""
    first = ""
    for site in case.manifest.sites:
        missing = case.images - case.now[site.name].mean.count
        if hit := int(missing.max()):
            yield _not_finite(case, site.name, hit, first, {"channels": listed(missing > 0)})
            first = first or site.name
    if hit := case.images - int(case.window.predicted.sum()):
        yield _not_finite(case, PREDICTION, hit, first, {})


def _not_finite(case: Case, part: str, hit: int, first: str, evidence: dict[str, list[int]]) -> Finding:
    what = "the logits are" if part == PREDICTION else "activations are"
    before = f", first in {first}" if first else ""
    return Finding(
        rule="not_finite",
        part=part,
        severity="critical",
        cause=f"{part}: {what} infinite or NaN in {hit} of {plural(case.images, 'image')}{before}",
        value=hit / case.images,
        baseline=None if case.known is None else 0.0,
        interval=wilson(hit, case.images),
        images=case.images,
        evidence={"images_not_finite": hit, **evidence},
    )


def half_precision(case: Case) -> Iterator[Finding]:
    """The largest activation of an fp16 layer within three doublings of the largest number there is, 65504.

    A model that was published in half precision too has fp16 layers wherever that graph runs.
    """
    for site, now, before in case.layers():
        # The graph's inputs and outputs say nothing of it: they are float32 whatever it computes in.
        if site.datatype != "FP16" and case.manifest.half is None:
            continue
        if (largest := float(now.maximum.max())) <= case.thresholds.half_precision_maximum:
            continue
        yield Finding(
            rule="half_precision",
            part=site.name,
            severity="critical",
            cause=f"{site.name}: activations reach {largest:.0f}, and fp16 ends at 65504",
            value=largest,
            baseline=None if before is None else float(before.maximum.max()),
            interval=None,
            images=case.images,
            evidence={"channels": listed(now.maximum > case.thresholds.half_precision_maximum)},
        )


def exploding(case: Case) -> Iterator[Finding]:
    """RMS = √(E x²) above `explosion` times the baseline's."""
    yield from _rescaled(case, "exploding", grows=True)


def vanishing(case: Case) -> Iterator[Finding]:
    """RMS = √(E x²) below the baseline's divided by `explosion`."""
    yield from _rescaled(case, "vanishing", grows=False)


def _rescaled(case: Case, rule: str, grows: bool) -> Iterator[Finding]:
    limit = case.thresholds.explosion
    for site, now, before in case.layers():
        assert before is not None
        seen, known = _rms(now), _rms(before)
        if (seen <= limit * known) if grows else (seen >= known / limit):
            continue
        if not known:
            compared = "the baseline has only zeros"
        elif grows:
            compared = f"{seen / known:.1f} times the baseline's {known:.3g}"
        else:
            compared = f"{seen / known:.2g} of the baseline's {known:.3g}"
        yield Finding(
            rule=rule,
            part=site.name,
            severity="warning",
            cause=f"{site.name}: RMS {seen:.3g}, {compared}",
            value=seen,
            baseline=known,
            interval=_rms_interval(now),
            images=case.images,
            evidence={"ratio": seen / known} if known else {},
        )


def mean_shift(case: Case) -> Iterator[Finding]:
    """Σμ²/ΣE[x²] over the channels above the limit, and above 99 % of the baseline's images.

    It is at most the (q²-weighted) average of the same ratio of single images, so that the second comparison is strict.
    """
    for site, now, before in case.layers():
        assert before is not None
        if (value := _shift_of(now)) <= case.thresholds.mean_shift:
            continue
        ordinary = float(np.nanquantile(case.baseline.samples_of(site.name, "mean_shift"), 0.99))
        if value <= ordinary:
            continue
        known = _shift_of(before)
        expected = site.expected_mean_shift
        normal = "" if expected is None else f", {expected:.2f} for a normal input"
        yield Finding(
            rule="mean_shift",
            part=site.name,
            severity="warning",
            cause=f"{site.name}: the channels' means hold {share(value)} of the energy "
            f"(baseline {share(known)}{normal})",
            value=value,
            baseline=known,
            interval=_shift_interval(now, value),
            images=case.images,
            evidence={"baseline_p99": ordinary} | ({} if expected is None else {"expected": expected}),
        )


def _rms(layer: Layer) -> float:
    return float(np.sqrt(layer.square.mean.mean()))


def _rms_interval(layer: Layer) -> tuple[float, float]:
    """As if the channels erred together, which is the widest it can be."""
    square, half = layer.square.mean.mean(), Z * standard_errors(layer.square).mean()
    return float(np.sqrt(max(0.0, square - half))), float(np.sqrt(square + half))


def _shift_of(layer: Layer) -> float:
    return float((layer.mean.mean**2).sum() / (layer.square.mean.sum() or 1.0))


def _shift_interval(layer: Layer, value: float) -> tuple[float, float]:
    """To first order, as if the channels erred together and against each other's favour."""
    energy = layer.square.mean.sum()
    errors = 2 * np.abs(layer.mean.mean) @ standard_errors(layer.mean) + value * standard_errors(layer.square).sum()
    half = Z * float(errors / energy)
    return max(0.0, value - half), min(1.0, value + half)
