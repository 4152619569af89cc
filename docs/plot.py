"""Drawings as SVG, in colours for light and dark pages."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import RcKeyType
from numpy.typing import NDArray

from docs.drawing import Curve, Drawing

Values = NDArray[np.float64]

FUNCTION_COLOURS = ("#2f81f7", "#8957e5")
SLOPE_COLOURS = ("#d9772b", "#bf4b8a")
QUIET = "#7d8590"
SHEET_COLUMNS = 7
SHEET_WINDOW = (-4.0, 4.0)
POINTS = 50
"""Of each smooth piece of a curve."""
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
BESIDE = 1e-9
"""How far beside a kink its one-sided limits are taken."""

# Text stays text and ids are hashed with a fixed salt: the same drawing is the same file, on every machine.
STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "reslens",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "path.simplify": False,
    "text.color": QUIET,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.labelcolor": "linecolor",
    "legend.handlelength": 1.2,
    "legend.fontsize": 8,
}


@dataclass(frozen=True)
class Samples:
    """A curve and its derivative along one smooth piece, or at one point."""

    x: Values
    y: Values
    slope: Values


def plot(drawing: Drawing) -> str:
    """The function at the left, its derivative at the right; grey where it saturates; as SVG."""
    with rc_context(STYLE):
        figure = Figure(figsize=(6.6, 2.2))
        function, slope = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.055, right=0.985, top=0.88, bottom=0.11, wspace=0.15)
        _panel(function, drawing, "y", FUNCTION_COLOURS)
        _panel(slope, drawing, "slope", SLOPE_COLOURS)
        function.set_title(f"f({drawing.variable})", loc="left", color=FUNCTION_COLOURS[0], fontsize=10)
        slope.set_title(f"f′({drawing.variable})", loc="left", color=SLOPE_COLOURS[0], fontsize=10)
        return svg(figure)


def contact_sheet(drawings: Mapping[str, Drawing]) -> str:
    """All activations small, on the same scale, with their derivatives; as SVG."""
    rows = math.ceil(len(drawings) / SHEET_COLUMNS)
    with rc_context(STYLE | {"lines.linewidth": 1.6}):
        figure = Figure(figsize=(8.8, 1.12 * rows))
        grid = figure.subplots(rows, SHEET_COLUMNS, squeeze=False).ravel()
        figure.subplots_adjust(left=0.005, right=0.995, top=0.97, bottom=0.005, wspace=0.06, hspace=0.3)
        for axes in grid:
            axes.set_axis_off()
        for axes, (key, drawing) in zip(grid, drawings.items(), strict=False):
            _cross(axes)
            for quantity, colours in (("slope", SLOPE_COLOURS), ("y", FUNCTION_COLOURS)):
                for curve, colour in zip(drawing.curves, colours, strict=False):
                    _draw(axes, curve, SHEET_WINDOW, quantity, colour, with_kinks=False)
            axes.set_title(key, fontsize=8, pad=2)
            axes.set_xlim(*SHEET_WINDOW)
            axes.set_ylim(-1.3, 2.7)
        return svg(figure)


def svg(figure: Figure) -> str:
    """The figure as text, the same on every machine."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=NO_METADATA)
    # A hundredth of a point is finer than any screen; and no space at the end of a line.
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", buffer.getvalue())
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _panel(axes: Axes, drawing: Drawing, quantity: str, colours: tuple[str, ...]) -> None:
    _cross(axes)
    first, last = drawing.window
    for low, high in drawing.saturated:
        left, right = first if low is None else low, last if high is None else high
        axes.axvspan(left, right, color=QUIET, alpha=0.16, linewidth=0)
    for curve, colour in zip(drawing.curves, colours, strict=False):
        _draw(axes, curve, drawing.window, quantity, colour)
    axes.set_xlim(first, last)
    axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(_tick)
    _leave_room(axes)
    if len(drawing.curves) > 1:
        # Beside the title, where no curve can be.
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=len(drawing.curves))


def _tick(value: float, _position: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _cross(axes: Axes) -> None:
    axes.axhline(0, color=QUIET, linewidth=0.7, alpha=0.5)
    axes.axvline(0, color=QUIET, linewidth=0.7, alpha=0.5)


def _draw(
    axes: Axes, curve: Curve, window: tuple[float, float], quantity: str, colour: str, with_kinks: bool = True
) -> None:
    first, last = window
    kinks = [kink for kink in curve.kinks if first < kink < last]
    # At 0 too, where many a function bends or has its steepest point.
    for left, right in pairwise(sorted({first, 0.0, *kinks, last})):
        samples = _sample(curve, np.linspace(left + BESIDE, right - BESIDE, POINTS))
        x, y = _without_straight_runs(samples.x, getattr(samples, quantity))
        axes.plot(x, y, color=colour, label=curve.name if left == first else None)
    for kink in kinks if with_kinks else []:
        beside = getattr(_sample(curve, np.array([kink - BESIDE, kink + BESIDE])), quantity)
        (value,) = getattr(_sample(curve, np.array([kink])), quantity)
        # Rings are limits that are not taken, the dot is what is.
        for limit in beside[np.abs(beside - value) > 1e-6]:
            axes.plot(kink, limit, "o", color=colour, markerfacecolor="none", markersize=4.5, markeredgewidth=1.2)
        axes.plot(kink, value, "o", color=colour, markersize=4.5)


def _without_straight_runs(x: Values, y: Values) -> tuple[Values, Values]:
    """Of evenly spaced points those where the line bends, and the ends."""
    bends = np.abs(np.diff(y, 2)) > 1e-6
    needed = np.concatenate([[True], bends, [True]])
    return x[needed], y[needed]


def _sample(curve: Curve, x: Values) -> Samples:
    at = torch.from_numpy(x).requires_grad_()
    y = curve.function(at)
    (slope,) = torch.autograd.grad(y.sum(), at)
    return Samples(x, y.detach().numpy(), slope.numpy())


def _leave_room(axes: Axes) -> None:
    """Both sides of zero are seen, and a flat line does not fill its panel."""
    low, high = axes.dataLim.y0, axes.dataLim.y1
    low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * 0.1
    axes.set_ylim(low - room, high + room)
