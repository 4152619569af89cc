"""`python -m training networks`"""

from collections.abc import Iterable
from typing import Annotated

import tyro
from pydantic import TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.resnet.facts import NetworkFacts, combinations, details, gather, series, summary
from training.resnet.variants import VARIANTS

LEGEND = (
    "multiply-adds: of convolutions and matrix products, for one image; layers: without those of shortcuts and gates\n"
    f"any other by its numbers: {', '.join(series())}"
)
NUMBERS = {"parameters", "multiply-adds", "layers", "image", "classes"}
FLAGS = {
    "arrangement": "--arrangement",
    "shortcut": "--shortcut",
    "normaliser": "--normaliser",
    "head": "--head",
    "regulariser": "--regularisers",
}


def networks(
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """List the networks with their sizes, or show one and the options that combine with it.

    Args:
        name: Name of the network to show; all that have an entry are listed if not given.
        json: Print JSON for programs; of one network also what combines with it, and why what does not.
    """
    facts = [gather(key) for key in ([name] if name else VARIANTS)]
    options = combinations(name) if name else {}
    if json:
        printed = TypeAdapter(dict[str, NetworkFacts]).dump_python({each.key: each for each in facts}, mode="json")
        if name:
            printed[name]["options"] = options
        print(TypeAdapter(dict[str, object]).dump_json(printed, indent=2).decode())
        return
    console = Console()
    if not console.is_terminal:
        # A file or a pipe: each row is one line, of any length.
        console.width = 10_000
    console.print(_card(facts[0], options) if name else _overview(facts))


def _overview(facts: Iterable[NetworkFacts]) -> Table:
    rows = [summary(each) for each in facts]
    table = Table(box=SIMPLE_HEAD, caption=LEGEND, caption_justify="left", pad_edge=False)
    for column in rows[0]:
        table.add_column(column, no_wrap=column != "source", justify="right" if column in NUMBERS else "left")
    for row in rows:
        table.add_row(*map(Text, row.values()))
    return table


def _card(facts: NetworkFacts, options: dict[str, dict[str, str]]) -> Table:
    card = Table.grid(padding=(0, 2))
    card.add_row(Text(facts.key, style="bold"))
    for subject, text in details(facts).items():
        card.add_row(subject, Text(text))
    for option, values in options.items():
        taken = [value for value, reason in values.items() if not reason]
        card.add_row(FLAGS[option], Text(", ".join(taken) or "none"))
    # One reason may be that of several values.
    reasons = dict.fromkeys(reason for values in options.values() for reason in values.values() if reason)
    for index, reason in enumerate(reasons):
        card.add_row("" if index else "refused", Text(reason))
    return card
