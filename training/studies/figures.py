"""The pictures of a report: accuracies of all runs, and what goes on through depth."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType
from numpy.typing import NDArray
from PIL import Image

from training.studies.case import AXES, Case
from training.studies.results import Group, Run

Values = NDArray[np.float64]
Moment = str

QUIET = "#7d8590"
COLOUR = "#2f81f7"
DOT = "#d9772b"
COLOURS = "viridis"
WIDTH = 11.0
ROW = 0.19
"""Inches of a row."""
OUTER = (2, 98)
"""Percentiles that the outermost shades of a logarithmic scale stand for."""
MOMENTS: Mapping[Moment, str] = {"initial": "before the first step", "final": "after the last epoch"}
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "text.color": QUIET,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
    "legend.labelcolor": "linecolor",
}


WHITE = "White after the last epoch: all runs diverged, or there is none."


@dataclass(frozen=True)
class Picture:
    """A figure with what it shows."""

    key: str
    title: str
    caption: str
    figure: Figure

    def svg(self) -> str:
        """As an element of a page: no prologue, and ids that no other picture of the page has."""
        buffer = StringIO()
        with rc_context({**STYLE, "svg.hashsalt": self.key}):
            self.figure.savefig(buffer, format="svg", transparent=True, metadata=NO_METADATA)
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        # What nothing refers to needs no id, and numbers of parts are the same in every picture.
        asked = set(re.findall(r"#([\w.-]+)", text))
        text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in asked else "", text)
        return re.sub(r"(\d\.\d\d)\d+", r"\1", text)

    def png(self) -> Image.Image:
        """On white, with its title."""
        buffer = BytesIO()
        heading = self.figure.suptitle(self.title, x=0.01, horizontalalignment="left", fontsize=11)
        self.figure.savefig(buffer, format="png", dpi=110, facecolor="white")
        heading.remove()
        return Image.open(buffer).convert("RGB")


@dataclass(frozen=True)
class Through:
    """A figure of layers that is drawn through depth."""

    title: str
    caption: str
    figure: str
    logarithmic: bool = False
    limits: tuple[float, float] | None = None


THROUGH_DEPTH: dict[str, Through] = {
    "dead-units": Through(
        "Dead units",
        "Share of the units of each activation that are saturated for every probed image; white, too, where saturation "
        "is not a matter of one input.",
        "dead_units",
        limits=(0.0, 1.0),
    ),
    "mean-shift": Through(
        "Mean shift",
        "|mean| / standard deviation of the output of each activation; 2 stands for all above it too.",
        "mean_shift",
        limits=(0.0, 2.0),
    ),
    "spread": Through(
        "Scale through depth", "Standard deviation of the output of each activation.", "std", logarithmic=True
    ),
    "gradient": Through(
        "Gradient through depth",
        "Root mean square of the gradient of each convolution and linear layer, on the probed images.",
        "gradient_rms",
        logarithmic=True,
    ),
}


def draw(groups: Sequence[Group]) -> list[Picture]:
    """All pictures of a study; those of which nothing was measured are left out."""
    with rc_context(STYLE):
        pictures = [_accuracies(groups)]
        pictures += [_through_depth(key, through, groups) for key, through in THROUGH_DEPTH.items()]
        return [*pictures, *_slopes(groups)]


def stack(pictures: Sequence[Picture]) -> bytes:
    """One below the other, as one PNG."""
    images = [picture.png() for picture in pictures]
    sheet = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    buffer = BytesIO()
    # Two hundred colours are enough for lines and colour maps, and make a file a third as large.
    sheet.quantize(200).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def labels(groups: Sequence[Group]) -> dict[Case, str]:
    """What sets each group apart from the others, but for its network."""
    cases = [group.case for group in groups]
    axes = [axis for axis in AXES if axis != "network" and len({case.axes()[axis] for case in cases}) > 1]
    return {case: " · ".join(case.axes()[axis] for axis in axes or ["activation"]) for case in cases}


def _accuracies(groups: Sequence[Group]) -> Picture:
    names, panels = labels(groups), _panels(groups)
    rows = list(dict.fromkeys(names.values()))
    figure, grid = _grid(len(panels), rows)
    for axes, (network, those) in zip(grid, panels.items(), strict=True):
        for group in those:
            _dots(axes, rows.index(names[group.case]), [100 * run["accuracy"] for run in group.ended.values()])
        axes.set_title(network, loc="left", fontsize=9)
        axes.grid(axis="x", color=QUIET, alpha=0.25, linewidth=0.5)
        axes.set_xlabel("held-out accuracy, %")
    caption = "Each dot is a run; the bar is mean ± standard deviation over seeds. Diverged runs have no dot."
    return Picture("accuracy", "Accuracy", caption, figure)


def _dots(axes: Axes, row: int, values: Sequence[float]) -> None:
    if not values:
        return
    axes.plot(values, [row] * len(values), "o", color=DOT, markersize=2.5, alpha=0.8)
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    axes.errorbar(float(np.mean(values)), row, xerr=deviation, fmt="|", color=COLOUR, markersize=7, linewidth=1.2)


def _through_depth(key: str, through: Through, groups: Sequence[Group]) -> Picture:
    """A map for each network and moment: a row for each group, a column for each layer."""
    names, panels = labels(groups), _panels(groups)
    rows = list(dict.fromkeys(names.values()))
    maps = {
        (network, moment): _map(through.figure, moment, {names[group.case]: group for group in those}, rows)
        for network, those in panels.items()
        for moment in MOMENTS
    }
    figure, grid = _grid(len(maps), rows)
    scale = _scale(through, list(maps.values()))
    for axes, ((network, moment), values) in zip(grid, maps.items(), strict=True):
        image = axes.imshow(values, aspect="auto", cmap=COLOURS, norm=scale, interpolation="nearest")
        axes.set_title(f"{network}\n{MOMENTS[moment]}", loc="left", fontsize=8)
        axes.set_xlabel("layer")
        axes.set_xticks([0, values.shape[1] - 1], ["first", "last"])
    figure.colorbar(image, ax=grid, fraction=0.03, pad=0.01, aspect=30)
    return Picture(key, through.title, f"{through.caption} {WHITE}", figure)


def _map(name: str, moment: Moment, groups: Mapping[str, Group], rows: Sequence[str]) -> Values:
    """Means over seeds, rows × layers; no number where none of the runs has one."""
    found = {
        label: np.array([_floats(run[moment][name]) for run in runs])
        for label, group in groups.items()
        if (runs := _read_at(moment, group))
    }
    layers = max((values.shape[1] for values in found.values()), default=1)
    empty = np.full((1, layers), math.nan)
    # Activations at other places, as arrangements have them, are not of one length: they end where they end.
    padded = [
        np.pad(values, ((0, 0), (0, layers - values.shape[1])), constant_values=math.nan)
        for values in (found.get(label, empty) for label in rows)
    ]
    return np.array([_mean(values) for values in padded])


def _read_at(moment: Moment, group: Group) -> list[Run]:
    # What diverged has numbers of any size at its end, beside which all others would have one shade.
    return group.begun if moment == "initial" else [*group.ended.values()]


def _mean(values: Values) -> Values:
    """Over runs, of those that have a number."""
    there = np.isfinite(values)
    counts = there.sum(0)
    totals = np.where(there, values, 0.0).sum(0)
    return np.where(counts > 0, totals / np.maximum(counts, 1), math.nan)


def _scale(through: Through, maps: Sequence[Values]) -> Normalize:
    values = np.concatenate([each.ravel() for each in maps])
    if through.logarithmic:
        positive = values[np.isfinite(values) & (values > 0)]
        # Between them lie most; the shades at both ends stand for all beyond too.
        low, high = np.percentile(positive, OUTER) if len(positive) else (0.1, 1.0)
        return LogNorm(low, high if high > low else low * 10, clip=True)
    low, high = through.limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    return Normalize(low, high, clip=True)


def _slopes(groups: Sequence[Group]) -> list[Picture]:
    """Parameters that activations themselves learn, by layer; none where nothing is learned."""
    learning = [group for group in groups if _learned_names(group)]
    if not learning:
        return []
    names, panels = labels(groups), _panels(learning)
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    grid: Sequence[Axes] = list(figure.subplots(1, len(panels), squeeze=False)[0])
    for axes, (network, those) in zip(grid, panels.items(), strict=True):
        for index, group in enumerate(those):
            for name in _learned_names(group):
                runs = np.array([_floats(_means(run["final"]["learned"][name])) for run in group.ended.values()])
                label = f"{names[group.case]} {name}"
                axes.plot(_mean(runs), marker="o", markersize=2, linewidth=1, color=f"C{index % 10}", label=label)
        axes.set_title(network, loc="left", fontsize=9)
        axes.set_xlabel("activation, first to last")
        axes.legend(fontsize=6)
    grid[0].set_ylabel("mean over channels and seeds")
    caption = "What the activations have learned after the last epoch, by layer."
    return [Picture("learned", "Learned slopes", caption, figure)]


def _learned_names(group: Group) -> list[str]:
    """Of the activation's own parameters; layers inside of it, as dynamic ReLU has them, are no slopes."""
    ended = next(iter(group.ended.values()), None)
    return [name for name in ended["final"]["learned"] if "." not in name] if ended else []


def _means(learned: Sequence[Sequence[float | None] | None]) -> list[float | None]:
    return [None if each is None else each[0] for each in learned]


def _floats(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _panels(groups: Sequence[Group]) -> dict[str, list[Group]]:
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.case.network, []).append(group)
    return found


def _grid(columns: int, rows: Sequence[str]) -> tuple[Figure, Sequence[Axes]]:
    """Panels side by side, with the names of their rows at the left."""
    figure = Figure(figsize=(WIDTH, 1.1 + ROW * len(rows)), layout="constrained")
    grid: Sequence[Axes] = list(figure.subplots(1, columns, squeeze=False)[0])
    for index, axes in enumerate(grid):
        axes.set_yticks(range(len(rows)), list(rows) if index == 0 else [])
        axes.tick_params(length=0)
        axes.set_ylim(len(rows) - 0.5, -0.5)
    return figure, grid
