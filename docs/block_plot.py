"""Drawings of residual blocks as SVG, side by side."""

import math
from collections.abc import Mapping

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from docs.block_drawing import BlockDrawing
from docs.plot import FUNCTION_COLOURS, QUIET, SLOPE_COLOURS, STYLE, svg

COLUMNS = 5
STEP = 1.0
"""From one box to the next."""
RIGHT = 2.6
"""Where the shortcut runs; the branch runs at 0."""
COLOURS = {"activation": SLOPE_COLOURS[0], "BN": QUIET}


def block_sheet(drawings: Mapping[str, BlockDrawing]) -> str:
    """Each block under its name, all on one scale; as SVG."""
    rows = math.ceil(len(drawings) / COLUMNS)
    deepest = max(_depth(drawing) for drawing in drawings.values())
    with rc_context(STYLE):
        figure = Figure(figsize=(8.8, rows * (0.5 + 0.36 * deepest)))
        grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        figure.subplots_adjust(left=0.005, right=0.995, top=1 - 0.3 / figure.get_figheight(), bottom=0.01, hspace=0.12)
        for axes in grid:
            axes.set_axis_off()
        for axes, (key, drawing) in zip(grid, drawings.items(), strict=False):
            _block(axes, drawing)
            axes.set_title(key, fontsize=9)
            axes.set_xlim(-1.7, 4.3)
            axes.set_ylim(-deepest * STEP, 0.3)
        return svg(figure)


def _depth(drawing: BlockDrawing) -> float:
    return max(len(drawing.branch), len(drawing.shortcut)) + len(drawing.closing) + 2.6


def _block(axes: Axes, drawing: BlockDrawing) -> None:
    """x at the top, the sum and what follows it at the bottom."""
    level = -(max(len(drawing.branch), len(drawing.shortcut)) + 1) * STEP
    end = level - (len(drawing.closing) + 0.8) * STEP
    _arrow(axes, [(0, 0), (0, end)])
    axes.text(-0.2, 0, "x", ha="right", va="top")
    if drawing.joins:
        _arrow(axes, [(0, -0.25), (RIGHT, -0.25), (RIGHT, level), (0.2, level)])
        axes.text(0, level, "+", ha="center", va="center", bbox=_frame(QUIET, "circle,pad=0.15"))
    _boxes(axes, 0, drawing.branch, -STEP)
    _boxes(axes, RIGHT, drawing.shortcut, -STEP)
    _boxes(axes, 0, drawing.closing, level - STEP)


def _boxes(axes: Axes, x: float, texts: tuple[str, ...], top: float) -> None:
    for index, text in enumerate(texts):
        colour = COLOURS.get(text, FUNCTION_COLOURS[0])
        axes.text(x, top - index * STEP, text, ha="center", va="center", color=colour, fontsize=8, bbox=_frame(colour))


def _frame(colour: str, style: str = "round,pad=0.3") -> dict[str, object]:
    return {"boxstyle": style, "facecolor": "white", "edgecolor": colour, "linewidth": 0.9}


def _arrow(axes: Axes, points: list[tuple[float, float]]) -> None:
    """Along these points; the last stretch has the head."""
    x, y = zip(*points[:-1], strict=True)
    axes.plot(x, y, color=QUIET, linewidth=1.0)
    look = {"arrowstyle": "->", "color": QUIET, "linewidth": 1.0, "shrinkA": 0}
    axes.annotate("", points[-1], points[-2], arrowprops=look)
