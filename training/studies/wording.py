"""Figures of a study as text; the table of a report is this and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from training.studies.case import AXES
from training.studies.results import Row

NOTHING = "–"
Figure = Mapping[str, float] | None

SHARES = {
    "accuracy": "held-out accuracy, %",
    "training_error": "training error, %",
    "dead_units": "dead units, %",
    "saturated": "saturated, %",
}
NUMBERS = {
    "loss": "held-out loss",
    "mean_shift": "mean shift",
    "std_ratio": "scale, last / first",
    "gradient_ratio": "gradient, first / last",
}


def columns(rows: Sequence[Row], compared: bool) -> list[dict[str, str]]:
    """The table: what differs between the rows, then what was measured."""
    varied = [axis for axis in AXES if len({row[axis] for row in rows}) > 1] or ["network", "activation"]
    return [_cells(row, varied, compared) for row in rows]


def _cells(row: Row, varied: Sequence[str], compared: bool) -> dict[str, str]:
    cells = {axis.replace("_", " "): str(row[axis]) for axis in varied}
    cells["runs"] = runs(row)
    cells[SHARES["accuracy"]] = share(row["accuracy"], 2)
    if compared:
        cells |= comparison(row["comparison"])
    cells |= {title: share(row[name], 1) for name, title in SHARES.items() if name != "accuracy"}
    return cells | {title: number(row[name]) for name, title in NUMBERS.items()}


def runs(row: Row) -> str:
    """How many there are, and what became of those without an accuracy."""
    lost = {"diverged": len(row["diverged"]), "failed": len(row["failed"])}
    return ", ".join([str(row["runs"]), *(f"{count} {what}" for what, count in lost.items() if count)])


def share(figure: Figure, digits: int) -> str:
    """In per cent, mean ± standard deviation."""
    return _spread(figure, lambda value: f"{100 * value:.{digits}f}")


def number(figure: Figure) -> str:
    """Three digits, mean ± standard deviation."""
    return _spread(figure, lambda value: f"{value:.3g}")


def comparison(found: Mapping[str, Any] | None) -> dict[str, str]:
    """Difference in points with its interval, and both p-values."""
    texts = dict.fromkeys(("difference, points", "p", "p (Holm)"), NOTHING)
    if found is None:
        return texts
    interval = f" [{_points(found['low'])}, {_points(found['high'])}]" if found["low"] is not None else ""
    texts["difference, points"] = f"{_points(found['difference'])}{interval}"
    for title, name in (("p", "p"), ("p (Holm)", "p_holm")):
        if found[name] is not None:
            texts[title] = f"{found[name]:.3f}" if found[name] >= 0.001 else f"{found[name]:.0e}"
    return texts


def _points(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")


def _spread(figure: Figure, text: Callable[[float], str]) -> str:
    if figure is None:
        return NOTHING
    return text(figure["mean"]) + (f" ± {text(figure['std'])}" if figure["std"] is not None else "")
