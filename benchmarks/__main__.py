"""`python -m benchmarks [NAME …] [--save FILE]` runs the benchmarks named, or all, and prints a table of each."""

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from benchmarks.memory import memory
from benchmarks.serving import serving
from benchmarks.statistics_cost import statistics_cost

Rows = list[dict[str, str]]

BENCHMARKS: dict[str, tuple[str, Callable[[], Rows]]] = {
    "serving": ("requests/s of the service against bare session.run, ResNet-20, one image a request", serving),
    "statistics": ("time with layer statistics against the plain run, one thread", statistics_cost),
    "memory": ("resident memory of a plain session, and what the instrumented one adds", memory),
}


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(BENCHMARKS)}; all if none is named")
    parser.add_argument("--save", type=Path, help="write figures, machine and versions to this JSON file")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; choose from {', '.join(BENCHMARKS)}")
    machine = describe_machine()
    console = Console(width=160)
    console.print(" · ".join(f"{key} {value}" for key, value in machine.items()), highlight=False)
    console.print("Ratios: median of rounds [95 % bootstrap interval].", highlight=False)
    results: dict[str, Rows] = {}
    for name in arguments.names or BENCHMARKS:
        title, run = BENCHMARKS[name]
        results[name] = run()
        console.print(_table(title, results[name]))
    if arguments.save:
        measured = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "results": results}
        arguments.save.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")


def _table(title: str, rows: Sequence[dict[str, str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    return table


if __name__ == "__main__":
    main()
