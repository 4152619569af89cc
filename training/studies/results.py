"""What a study found, put together from its runs: the content of `results.json`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from training.studies.baseline import Baseline
from training.studies.case import Case
from training.studies.comparison import TEST, Comparison, compare, holm, spread

Run = Mapping[str, Any]
Row = dict[str, Any]

RUN_FIGURES = ("accuracy", "loss", "training_error", "training_loss")
"""Of a run that did not diverge."""
LAYER_FIGURES = ("dead_units", "dead_channels", "saturated", "mean_shift")
"""Of all layers after the last epoch, averaged."""
MEANING = {
    "accuracy": "share of the held-out images that the averaged weights classify rightly after the last epoch",
    "loss": "their mean cross-entropy in nats",
    "training_error": "share of the training images, without augmentation, that they classify wrongly",
    "training_loss": "mean of the last epoch, as it was trained: augmented and smoothed",
    "dead_units": "share of the units (a channel at a position) that are saturated for each of the 128 images probed",
    "dead_channels": "share of the channels all of whose units are dead",
    "saturated": "share of the activations' inputs where |f′| is below 1 % of its maximum",
    "mean_shift": "|mean| / standard deviation of an activation's output",
    "gradient_ratio": "gradient RMS of the first convolution by that of the last, before the first step",
    "std_ratio": "standard deviation of the last activation's output by that of the first, before the first step",
}


@dataclass(frozen=True)
class Group:
    """The runs that differ in their seed alone; those that are not finished are missing."""

    case: Case
    runs: Mapping[int, Run]

    @property
    def ended(self) -> dict[int, Run]:
        """Those that did not diverge or fail."""
        return {seed: run for seed, run in self.runs.items() if "accuracy" in run}

    @property
    def begun(self) -> list[Run]:
        """Those whose layers were read before the first step, ones that diverged later too."""
        return [run for run in self.runs.values() if "initial" in run]


def gather(cases: Iterable[Case], runs: Mapping[Case, Run]) -> list[Group]:
    """Groups in the order of their first case; without those of which no run was made."""
    found: dict[Case, dict[int, Run]] = {}
    for case in cases:
        of_seeds = found.setdefault(replace(case, seed=0), {})
        if case in runs:
            of_seeds[case.seed] = runs[case]
    return [Group(case, of_seeds) for case, of_seeds in found.items() if of_seeds]


def summarise(groups: Sequence[Group], baseline: Baseline | None) -> list[Row]:
    """A row for each group, with the comparison where there is one."""
    compared = _compare(groups, baseline) if baseline else {}
    return [_row(group, compared.get(group.case)) for group in groups]


def results(
    groups: Sequence[Group], baseline: Baseline | None, skipped: Mapping[str, Sequence[Case]], about: Mapping[str, Any]
) -> dict[str, Any]:
    """All of it, for programs; `about` says what was studied, on which images and machine."""
    return {
        **about,
        "baseline": str(baseline) if baseline else None,
        "test": TEST if baseline else None,
        "meaning": MEANING,
        "rows": summarise(groups, baseline),
        "skipped": [{"reason": reason, "cases": [case.axes() for case in those]} for reason, those in skipped.items()],
        "runs": [run for group in groups for run in group.runs.values()],
    }


def _row(group: Group, comparison: Comparison | None) -> Row:
    figures = {name: [run[name] for run in group.ended.values()] for name in RUN_FIGURES}
    figures |= {name: [_mean(run["final"][name]) for run in group.ended.values()] for name in LAYER_FIGURES}
    figures["gradient_ratio"] = [gradient_ratio(run["initial"]) for run in group.begun]
    figures["std_ratio"] = [_ratio(run["initial"]["std"][-1], run["initial"]["std"][0]) for run in group.begun]
    spreads = {name: spread(values) for name, values in figures.items()}
    return {
        **group.case.axes(),
        "runs": len(group.runs),
        "diverged": [seed for seed, run in group.runs.items() if "diverged" in run],
        "failed": {str(seed): run["failed"] for seed, run in group.runs.items() if "failed" in run},
        "parameters": next((run["parameters"] for run in group.begun), None),
        **{name: None if found is None else asdict(found) for name, found in spreads.items()},
        "comparison": None if comparison is None else asdict(comparison),
    }


def _compare(groups: Sequence[Group], baseline: Baseline) -> dict[Case, Comparison]:
    accuracies = {group.case: {seed: run["accuracy"] for seed, run in group.ended.items()} for group in groups}
    found: dict[Case, Comparison] = {}
    for case, accuracy in accuracies.items():
        against = baseline.of(case)
        comparison = compare(accuracy, accuracies.get(against, {})) if against else None
        if comparison:
            found[case] = comparison
    return dict(zip(found, holm(list(found.values())), strict=True))


def gradient_ratio(reading: Mapping[str, Any]) -> float | None:
    """First convolution by the last: below 1 the gradient shrinks on its way to the images."""
    # Heads end in a linear layer, which is no part of the way.
    body = [
        gradient
        for name, gradient in zip(reading["weights"], reading["gradient_rms"], strict=True)
        if name.rpartition(".")[2].startswith("conv")
    ]
    return _ratio(body[0], body[-1]) if body else None


def _ratio(over: float | None, under: float | None) -> float | None:
    return None if over is None or not under else over / under


def _mean(values: Sequence[float | None]) -> float | None:
    """Of all layers, or none: where some have no number, the mean would be one of others."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if values and len(numbers) == len(values) else None
