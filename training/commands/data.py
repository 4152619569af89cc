"""`python -m training data`"""

import sys
from collections.abc import Iterable, Iterator
from typing import Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.card import ClassCount, DataCard, SizeSpread, SkippedImage
from training.data.card import data_card
from training.data.sources import DataConfig, load_data


def data(
    data: DataConfig = DataConfig(),  # noqa: B008  (frozen)
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Load and check a data set, downloading it if need be, and describe it; nothing is trained.

    Args:
        data: What to load.
        json: Print the data card as JSON for programs, as the manifest of a model has it.
    """
    card = data_card(load_data(data))
    if json:
        print(card.model_dump_json(indent=2))
        return
    console = Console()
    if not console.is_terminal:
        # A file or a pipe: each row is one line, of any length.
        console.width = 10_000
    console.print(_facts(card))
    console.print(_classes(card.classes))
    print_skipped(card.skipped, card.skipped_images)


def print_skipped(skipped: Iterable[SkippedImage], count: int) -> None:
    """Say on standard error which images were left out."""
    listed = list(skipped)
    for each in listed:
        print(f"skipped {each.image}: {each.reason}", file=sys.stderr)
    if count > len(listed):
        print(f"skipped {count - len(listed)} more", file=sys.stderr)


def _facts(card: DataCard) -> Table:
    table = Table.grid(padding=(0, 2))
    for subject, text in _lines(card):
        table.add_row(subject, Text(text))
    return table


def _lines(card: DataCard) -> Iterator[tuple[str, str]]:
    yield "data", card.name
    yield "source", card.source
    yield "images", f"{card.training_images:,} to train on, {card.held_out_images:,} held out"
    for side, spread in (("widths", card.widths), ("heights", card.heights)):
        if spread:
            yield side, _range(spread)
    moments = zip(card.channel_means, card.channel_deviations, strict=True)
    yield "channels", ", ".join(f"{mean:.2f} ± {deviation:.2f}" for mean, deviation in moments)
    yield "skipped", f"{card.skipped_images:,}"
    yield "SHA-256", card.digest


def _range(spread: SizeSpread) -> str:
    if spread.minimum == spread.maximum:
        return f"{spread.minimum}"
    return f"{spread.minimum} to {spread.maximum}, median {spread.median:g}"


def _classes(classes: tuple[ClassCount, ...]) -> Table:
    weighted = any(each.weight is not None for each in classes)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", no_wrap=True)
    for column in ("training", "held out", *(["weight"] if weighted else [])):
        table.add_column(column, justify="right")
    for each in classes:
        weight = [] if each.weight is None else [f"{each.weight:.4g}"]
        table.add_row(Text(each.name), f"{each.training:,}", f"{each.held_out:,}", *weight)
    return table
