"""`python -m training activations`"""

import sys
from collections.abc import Iterable
from typing import Annotated

import tyro
from pydantic import TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.activations.catalogue import activation_keys, find_activation
from training.activations.facts import WIDTH, Facts, gather
from training.activations.wording import details, summary

WIDE = 160
"""Width of a terminal in which every column of the overview can be read."""
NARROW = ["key", "formula", "saturates where", "use"]
UNBROKEN = {"key", "learns", "channels", "mean", "variance"}
SATURATES = "saturates where |f′| is below 1 % of its maximum"
LEGEND = f"learns: numbers at each site of width {WIDTH}; mean, variance: of the output for inputs from N(0, 1)"
MORE = f"more columns in a terminal of {WIDE}"
NARROWEST = {"parameters": 16, "saturates where": 18, "zero = dead": 6}
"""Widths of columns that may wrap in a terminal, so that the others need not."""


def activations(
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """List the activations, or show everything about one.

    Args:
        name: Key of the activation to show; all are listed if not given.
        json: Print JSON for programs: null stands for infinite, and for what does not exist.
    """
    facts = _usable() if name is None else [gather(name, find_activation(name))]
    if json:
        by_key = {each.key: each for each in facts}
        print(TypeAdapter(dict[str, Facts]).dump_json(by_key, indent=2).decode())
        return
    console = Console()
    width = console.width if console.is_terminal else None
    if width is None:
        # A file or a pipe: each row is one line, of any length.
        console.width = 10_000
    console.print(_overview(facts, width) if name is None else _card(facts[0]))


def _usable() -> list[Facts]:
    """All that can be shown; for each other, which another package must have brought, a line on standard error."""
    facts = []
    for key in activation_keys():
        try:
            facts.append(gather(key, find_activation(key)))
        except ValueError as error:
            print(f"left out: {error}", file=sys.stderr)
        # Whatever another package raises, the others are listed.
        except Exception as error:
            print(f"left out: activation {key!r} raises {type(error).__name__}: {error}", file=sys.stderr)
    return facts


def _overview(facts: Iterable[Facts], width: int | None) -> Table:
    """For a terminal of this width, or for none."""
    rows = [summary(each) for each in facts]
    wide = width is None or width >= WIDE
    columns = list(rows[0]) if wide else NARROW
    table = Table(
        box=SIMPLE_HEAD, caption=f"{SATURATES}; {LEGEND if wide else MORE}", caption_justify="left", pad_edge=False
    )
    for column in columns:
        limit = None if width is None else NARROWEST.get(column)
        table.add_column(column, no_wrap=column in UNBROKEN, max_width=limit)
    for row in rows:
        table.add_row(*(Text(row[column]) for column in columns))
    return table


def _card(facts: Facts) -> Table:
    card = Table.grid(padding=(0, 2))
    card.add_row(Text(facts.key, style="bold"))
    for subject, text in details(facts).items():
        card.add_row(subject, Text(text))
    card.add_row("description", Text(facts.description))
    return card
